"""What learners of action values share: a network, its optimiser, and acting greedily."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from services.trainer.action_masks import Masks
from services.trainer.algorithms.state import join, optimizer_tensors, restore_optimizer, split
from services.trainer.observations import rows

FUSED_ADAM = partial(torch.optim.Adam, fused=True)


class QLearner:
    """A network of action values, (B, *observation) → (B, actions), and what improves it.

    Args:
        max_gradient_norm, max_gradient_value: of all gradients together, and of each.
        optimizer: made with the parameters and `lr`.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        device: torch.device,
        *,
        max_gradient_norm: float | None = None,
        max_gradient_value: float | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = FUSED_ADAM,
    ) -> None:
        self.network = network.to(device)
        self.updates = 0
        self._device = device
        self._max_norm, self._max_value = max_gradient_norm, max_gradient_value
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._optimizer = optimizer(self._parameters, lr=learning_rate)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the updates to come."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def q_values(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, *shape) → (B, actions)"""
        seen = self._tensor(rows(observations))
        with torch.inference_mode():
            values: npt.NDArray[np.float32] = self.network(seen).cpu().numpy()
        return values

    def exploring_values(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """What to act by while learning, (B, *shape) → (B, actions); `q_values` unless said."""
        return self.q_values(observations)

    def greedy(
        self, observations: npt.NDArray[Any], masks: Masks | None = None
    ) -> npt.NDArray[np.int64]:
        """(B, *shape), and which actions are allowed, (B, actions) → (B,)"""
        values = self.q_values(observations)
        if masks is not None:
            values = np.where(masks, values, -np.inf)
        actions: npt.NDArray[np.int64] = values.argmax(axis=1)
        return actions

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by dotted name."""
        return join(network=self.network.state_dict(), optimizer=optimizer_tensors(self._optimizer))

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        self.network.load_state_dict(split(tensors, "network"))
        restore_optimizer(self._optimizer, split(tensors, "optimizer"))
        self.updates = updates

    def _descend(self, loss: Tensor) -> Tensor:
        """One gradient step; returns the gradient's norm before clipping."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm or math.inf)
        if self._max_value is not None:
            nn.utils.clip_grad_value_(self._parameters, self._max_value)
        self._optimizer.step()
        self.updates += 1
        return norm

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
