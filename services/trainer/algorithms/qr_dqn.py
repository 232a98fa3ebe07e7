"""Distributional Q-learning by quantile regression (Dabney et al. 2018, QR-DQN).

What is learnt of each action is the distribution of its return, as quantiles at equal steps;
actions are chosen, and policies exported, by the mean of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.trainer.algorithms.dqn import DQNLearner
from services.trainer.config import Bootstrap
from services.trainer.experience import Experience
from services.trainer.losses import chosen, only_allowed, quantile_loss


class QuantileLearner(DQNLearner):
    """DQN whose network gives quantiles. Its TD errors are those of the means."""

    def _losses(self, experience: Experience, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        target = self._target_quantiles(experience)  # (B, N)
        quantiles = self.network.quantiles(self._tensor(experience.observation))  # (B, A, N)
        theta = chosen(quantiles, self._tensor(experience.action).long())  # (B, N)
        errors = (target.mean(dim=1) - theta.mean(dim=1)).detach()
        return quantile_loss(theta, target, self._delta), errors, quantiles.detach().mean(dim=2)

    @torch.no_grad()
    def _target_quantiles(self, experience: Experience) -> Tensor:
        next_observation = self._tensor(experience.next_observation)
        theta_t = self._target_network.quantiles(next_observation)  # (B, A, N)
        double = self._config.bootstrap == Bootstrap.DOUBLE
        q_t = self.network(next_observation) if double else theta_t.mean(dim=2)
        best = only_allowed(q_t, self._mask(experience)).argmax(dim=1)
        reached = chosen(theta_t, best)  # (B, N)
        discount = self._tensor(experience.discount).unsqueeze(1)
        return self._reward(experience).unsqueeze(1) + discount * reached
