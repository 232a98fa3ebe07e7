"""Deep Q-learning: a network, its target, an optimiser, and one update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from services.common.replay import Batch
from services.trainer.algorithms.q_learner import QLearner
from services.trainer.algorithms.state import join, split
from services.trainer.config import DQNConfig
from services.trainer.losses import double_q_target, td_loss

Target = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(rewards, discounts, target network's next values, network's next values) → targets, all (B…)"""


def q_learning_target(double: bool) -> Target:
    """Double Q-learning's target, or Q-learning's."""

    def target(r_t: Tensor, discount_t: Tensor, q_t: Tensor, online_q_t: Tensor) -> Tensor:
        return double_q_target(r_t, discount_t, q_t, online_q_t if double else q_t)

    return target


class DQNLearner(QLearner):
    """Learns action values from batches of n-step transitions.

    Args:
        network: (B, *observation) → (B, actions).
        target: how a batch's targets are made; see `q_learning_target`.
    """

    def __init__(
        self, network: nn.Module, config: DQNConfig, target: Target, device: torch.device
    ) -> None:
        super().__init__(network, config.learning_rate, config.max_gradient_norm, device)
        self._target_network = copy.deepcopy(self.network).requires_grad_(False)
        self._config, self._target = config, target

    def update(self, batch: Batch) -> dict[str, float]:
        """One gradient step; copies the network to its target every so many.

        Returns:
            the loss, the mean value of the actions taken, and the gradient's norm, but only
            after every 100th update: reading them waits for the device.
        """
        loss, mean_value = self._loss(batch)
        norm = self._descend(loss)
        if self.updates % self._config.target_update_period == 0:
            self._target_network.load_state_dict(self.network.state_dict())
        if self.updates % 100:
            return {}
        return {
            "loss": loss.item(),
            "q_mean": mean_value.item(),
            "gradient_norm": norm.item(),
        }

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
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

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by dotted name."""
        return super().tensors() | join(target=self._target_network.state_dict())

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        super().restore(tensors, updates)
        self._target_network.load_state_dict(split(tensors, "target"))
