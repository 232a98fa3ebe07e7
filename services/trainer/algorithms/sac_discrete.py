"""Soft actor-critic for discrete actions (Christodoulou 2019): expectations in place of draws."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from services.common.replay import Batch
from services.common.spec import PolicySpec
from services.trainer.actor_critic import actor, twin_critics
from services.trainer.algorithms.soft_actor_critic import SoftActorCriticLearner
from services.trainer.config import ActorCriticNetworkConfig, SACConfig
from services.trainer.heads import head_of
from services.trainer.losses import soft_expected_target


class DiscreteSACLearner(SoftActorCriticLearner):
    """A policy of logits, and critics that give the value of every action at once."""

    def __init__(
        self,
        spec: PolicySpec,
        network: ActorCriticNetworkConfig,
        config: SACConfig,
        device: torch.device,
        generator: np.random.Generator,
    ) -> None:
        critics = twin_critics(spec, network, 0, outputs=spec.actions)
        policy = actor(spec, network, config.initial_log_std)
        entropy = math.log(spec.actions) * config.target_entropy_scale
        super().__init__(policy, head_of(spec), critics, config, device, generator, entropy)

    def _target_values(
        self, rewards: Tensor, discounts: Tensor, features: Tensor, temperature: Tensor
    ) -> Tensor:
        table = self._table(features)
        return soft_expected_target(
            rewards, discounts, self._slow_critics(features), table, temperature
        )

    def _values(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        values = self.critics(features)  # (2, B, A)
        index = self._tensor(batch.action).long().expand(2, -1).unsqueeze(-1)
        return values.gather(2, index).squeeze(-1), values

    def _policy_loss(
        self, features: Tensor, values: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        table = self._table(features)
        chances, lesser = table.exp(), values.detach().amin(dim=0)
        expected = (chances * table).sum(dim=1)  # minus the entropy
        return (chances * (temperature * table - lesser)).sum(dim=1).mean(), expected

    def _table(self, features: Tensor) -> Tensor:
        return torch.log_softmax(self.network.of_features(features), dim=1)  # (B, A)
