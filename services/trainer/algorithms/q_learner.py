"""What learners of action values share: a network, its optimiser, and acting greedily."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.trainer import acting
from services.trainer.action_masks import Masks
from services.trainer.algorithms.state import join, optimizer_tensors, restore_optimizer, split
from services.trainer.gradients import ADAM, FlatDescent, Optimizer
from services.trainer.networks import QNetwork
from services.trainer.observations import rows


class QLearner:
    """A network of action values, (B, *observation) → (B, actions), and what improves it.

    Args:
        max_gradient_norm, max_gradient_value: of all gradients together, and of each.
    """

    def __init__(
        self,
        network: QNetwork,
        learning_rate: float,
        device: torch.device,
        *,
        max_gradient_norm: float | None = None,
        max_gradient_value: float | None = None,
        optimizer: Optimizer = ADAM,
    ) -> None:
        self.network = network.to(device)
        self.updates = 0
        self._device = device
        self._descent = FlatDescent(
            [p for p in network.parameters() if p.requires_grad],
            learning_rate,
            optimizer,
            max_norm=max_gradient_norm,
            max_value=max_gradient_value,
        )
        self._acting = acting.q_steps(network)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the updates to come."""
        self._descent.set_learning_rate(learning_rate)

    def q_values(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, *shape) → (B, actions)"""
        seen = rows(observations)
        if self._acting is not None:
            return acting.run(self._acting, seen)
        with torch.inference_mode():
            values: npt.NDArray[np.float32] = self.network(self._tensor(seen)).cpu().numpy()
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
        return join(
            network=self.network.state_dict(),
            optimizer=optimizer_tensors(self._descent.optimizer),
        )

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        self.network.load_state_dict(split(tensors, "network"))
        restore_optimizer(self._descent.optimizer, split(tensors, "optimizer"))
        self.updates = updates

    def _descend(self, loss: Tensor) -> Tensor:
        """One gradient step; returns the gradient's norm before clipping."""
        self.updates += 1
        return self._descent.descend(loss)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
