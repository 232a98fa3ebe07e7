"""Gradient descent in few calls: many small tensors as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FlatAdam:
    """Adam on parameters that become views of one tensor, as their gradients do.

    Clipping and the step then take a call or two however many parameters there are. To be made
    once the parameters are on their device; they can be loaded and saved as before.

    Args:
        max_norm: of all gradients together.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], learning_rate: float, max_norm: float
    ) -> None:
        self._max_norm = max_norm
        with torch.no_grad():
            flat = torch.cat([p.reshape(-1) for p in parameters])
        self._flat, self._gradient = nn.Parameter(flat), torch.zeros_like(flat)
        self._flat.grad = self._gradient
        sizes = [p.numel() for p in parameters]
        parts = zip(parameters, flat.split(sizes), self._gradient.split(sizes), strict=True)  # type: ignore[no-untyped-call]
        for parameter, values, gradient in parts:
            parameter.data = values.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)
        self.optimizer = torch.optim.Adam([self._flat], lr=learning_rate, eps=1e-5, fused=True)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the steps to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def descend(self, loss: Tensor) -> None:
        """One step down the gradient of a loss, clipped."""
        self._gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.linalg.vector_norm(self._gradient)
        self._gradient.mul_((self._max_norm / (norm + 1e-6)).clamp_(max=1.0))
        self.optimizer.step()
