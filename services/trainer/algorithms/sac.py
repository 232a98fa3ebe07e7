"""Soft actor-critic in a Box (Haarnoja et al. 2018, "Algorithms and Applications")."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from services.common.replay import Batch
from services.common.spec import PolicySpec
from services.trainer.actor_critic import actor, twin_critics
from services.trainer.algorithms.soft_actor_critic import SoftActorCriticLearner
from services.trainer.config import ActorCriticNetworkConfig, SACConfig
from services.trainer.heads import TanhGaussian, head_of
from services.trainer.losses import soft_twin_target


class SACLearner(SoftActorCriticLearner):
    """A squashed Gaussian policy, and critics that judge actions drawn from it."""

    head: TanhGaussian

    def __init__(
        self,
        spec: PolicySpec,
        network: ActorCriticNetworkConfig,
        config: SACConfig,
        device: torch.device,
        generator: np.random.Generator,
    ) -> None:
        head = head_of(spec)
        assert isinstance(head, TanhGaussian)
        size = spec.action.size
        critics = twin_critics(spec, network, size, outputs=1)
        policy = actor(spec, network, config.initial_log_std)
        entropy = -float(size) * config.target_entropy_scale
        super().__init__(policy, head, critics, config, device, generator, entropy)

    def _target_values(
        self, rewards: Tensor, discounts: Tensor, features: Tensor, temperature: Tensor
    ) -> Tensor:
        drawn, log_density = self._draw(features)
        values = self._slow_critics(torch.cat([features, drawn], dim=1)).squeeze(-1)  # (2, B)
        return soft_twin_target(rewards, discounts, values, log_density, temperature)

    def _values(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        actions = self.head.normalise(self._tensor(batch.action))
        values = self.critics(torch.cat([features, actions], dim=1)).squeeze(-1)  # (2, B)
        return values, values

    def _policy_loss(
        self, features: Tensor, values: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        drawn, log_density = self._draw(features)
        judged = self._judging_critics(torch.cat([features, drawn], dim=1)).amin(dim=0)  # (B, 1)
        return (temperature * log_density - judged.squeeze(-1)).mean(), log_density

    def _draw(self, features: Tensor) -> tuple[Tensor, Tensor]:
        noise = self._normal(len(features), self.head.size)
        return self.head.draw_with_gradient(self.network.of_features(features), noise)
