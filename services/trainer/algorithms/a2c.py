"""Advantage actor-critic (Mnih et al. 2016, synchronous): one step of descent a rollout."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from services.trainer.actor_critic import ActorCritic, LeashedActorCritic
from services.trainer.algorithms.actor_critic import ActorCriticLearner, RolloutBatch
from services.trainer.config import A2CConfig
from services.trainer.losses import policy_gradient_loss

FIGURES_PERIOD = 10  # updates; reading figures waits for the device


class A2CLearner(ActorCriticLearner):
    """Follows the policy gradient of each rollout once."""

    def __init__(
        self,
        network: ActorCritic | LeashedActorCritic,
        config: A2CConfig,
        device: torch.device,
    ) -> None:
        super().__init__(network, config, device)
        self._config = config

    def update(self, batch: RolloutBatch, generator: np.random.Generator) -> dict[str, float]:
        """See ActorCriticLearner."""
        parameters, values = self.actor_critic(self._seen(batch.observation))
        log_probability = self.head.log_probability(parameters, self._tensor(batch.action))
        policy_loss = policy_gradient_loss(log_probability, self._tensor(batch.advantage))
        value_loss = functional.mse_loss(values, self._tensor(batch.value_target))
        loss = policy_loss + self._config.value_coefficient * value_loss
        self._adam.descend(loss - self._entropy_term(parameters))
        self.updates += 1
        if self.updates % FIGURES_PERIOD:
            return {}
        with torch.no_grad():
            return {
                "loss": loss.item(),
                "policy_loss": policy_loss.item(),
                "value_loss": value_loss.item(),
                "entropy": self.head.entropy(parameters).mean().item(),
            }
