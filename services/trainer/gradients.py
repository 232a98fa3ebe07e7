"""Gradient descent in few calls: many small tensors as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

Optimizer = Callable[..., torch.optim.Optimizer]
"""Made with a list of parameters and `lr`."""
ADAM: Optimizer = partial(torch.optim.Adam, fused=True)


class FlatDescent:
    """Descends on parameters that become views of one tensor, as their gradients do.

    Clipping and the step then take a call or two however many parameters there are. To be made
    once the parameters are on their device; they can be loaded and saved as before.

    Args:
        max_norm, max_value: of all gradients together, and of each; None: as they are.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        learning_rate: float,
        optimizer: Optimizer = ADAM,
        *,
        max_norm: float | None = None,
        max_value: float | None = None,
    ) -> None:
        self._max_norm, self._max_value = max_norm or math.inf, max_value
        with torch.no_grad():
            flat = torch.cat([p.reshape(-1) for p in parameters])
        self._flat, self._gradient = nn.Parameter(flat), torch.zeros_like(flat)
        self._flat.grad = self._gradient
        sizes = [p.numel() for p in parameters]
        parts = zip(parameters, flat.split(sizes), self._gradient.split(sizes), strict=True)  # type: ignore[no-untyped-call]
        for parameter, values, gradient in parts:
            parameter.data = values.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)
        self.optimizer = optimizer([self._flat], lr=learning_rate)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the steps to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def descend(self, loss: Tensor) -> Tensor:
        """One step down the gradient of a loss; returns its norm before it was clipped, ()."""
        self._gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        return self.step()

    @torch.no_grad()
    def step(self) -> Tensor:
        """The same by the gradients that the parameters have."""
        norm: Tensor = torch.linalg.vector_norm(self._gradient)
        if self._max_norm < math.inf:
            self._gradient.mul_((self._max_norm / (norm + 1e-6)).clamp_(max=1.0))
        if self._max_value is not None:
            self._gradient.clamp_(-self._max_value, self._max_value)
        self.optimizer.step()
        return norm
