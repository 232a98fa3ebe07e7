"""Deep Q-learning: a network, its target, an optimiser, and one update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from services.common.replay.n_step import NStepBatch
from services.trainer.algorithms.state import join, optimizer_tensors, restore_optimizer, split
from services.trainer.config import DQNConfig
from services.trainer.losses import double_q_target, td_loss

Target = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(rewards, discounts, target network's next values, network's next values) → targets, all (B…)"""


def q_learning_target(double: bool) -> Target:
    """Double Q-learning's target, or Q-learning's."""

    def target(r_t: Tensor, discount_t: Tensor, q_t: Tensor, online_q_t: Tensor) -> Tensor:
        return double_q_target(r_t, discount_t, q_t, online_q_t if double else q_t)

    return target


class DQNLearner:
    """Learns action values from batches of n-step transitions.

    Args:
        network: (B, *observation) → (B, actions).
        target: how a batch's targets are made; see `q_learning_target`.
    """

    def __init__(
        self, network: nn.Module, config: DQNConfig, target: Target, device: torch.device
    ) -> None:
        self.network = network.to(device)
        self._target_network = copy.deepcopy(self.network).requires_grad_(False)
        self._config, self._target, self._device = config, target, device
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, fused=True
        )
        self.updates = 0

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the updates to come."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def update(self, batch: NStepBatch) -> dict[str, float]:
        """One gradient step; copies the network to its target every so many.

        Returns:
            the loss, the mean value of the actions taken, and the gradient's norm, but only
            after every 100th update: reading them waits for the device.
        """
        loss, mean_value = self._loss(batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self._config.max_gradient_norm)
        self._optimizer.step()
        self.updates += 1
        if self.updates % self._config.target_update_period == 0:
            self._target_network.load_state_dict(self.network.state_dict())
        if self.updates % 100:
            return {}
        return {
            "loss": loss.item(),
            "q_mean": mean_value.item(),
            "gradient_norm": norm.item(),
        }

    def _loss(self, batch: NStepBatch) -> tuple[Tensor, Tensor]:
        next_observation = self._tensor(batch.next_observation)
        with torch.no_grad():
            target = self._target(
                self._tensor(batch.reward) / self._config.reward_scale,
                self._tensor(batch.discount),
                self._target_network(next_observation),
                self.network(next_observation),
            )
        values = self.network(self._tensor(batch.observation))  # (B, A)
        actions = self._tensor(batch.action).long()
        return td_loss(values, actions, target, self._config.huber_delta), values.detach().mean()

    def q_values(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, *shape) → (B, actions)"""
        with torch.inference_mode():
            values: npt.NDArray[np.float32] = self.network(self._tensor(observations)).cpu().numpy()
        return values

    def greedy(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """(B, *shape) → (B,)"""
        actions: npt.NDArray[np.int64] = self.q_values(observations).argmax(axis=1)
        return actions

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by dotted name."""
        return join(
            network=self.network.state_dict(),
            target=self._target_network.state_dict(),
            optimizer=optimizer_tensors(self._optimizer),
        )

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        self.network.load_state_dict(split(tensors, "network"))
        self._target_network.load_state_dict(split(tensors, "target"))
        restore_optimizer(self._optimizer, split(tensors, "optimizer"))
        self.updates = updates

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
