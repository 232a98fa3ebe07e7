"""Soft actor-critic for discrete actions (Christodoulou 2019): expectations in place of draws."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from services.common.replay import Batch
from services.common.spec import PolicySpec
from services.trainer.actor_critic import Policy, actor, twin_critics
from services.trainer.algorithms.twin_critics import FIGURES_PERIOD, TwinCriticsLearner, descend
from services.trainer.config import ActorCriticNetworkConfig, SACConfig
from services.trainer.heads import head_of
from services.trainer.losses import soft_expected_target, temperature_loss, twin_value_loss


class DiscreteSACLearner(TwinCriticsLearner):
    """A policy of logits, and critics that give the value of every action at once."""

    network: Policy

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
        super().__init__(policy, head_of(spec), critics, config, device, generator)
        self._target_entropy = math.log(spec.actions) * config.target_entropy_scale
        self._log_temperature = torch.tensor(
            math.log(config.initial_temperature), device=device, requires_grad=True
        )
        learnt: list[Tensor] = [*self._actor_parameters, *self._critic_parameters]
        if config.learn_temperature:
            learnt.append(self._log_temperature)
        self._optimizer = self._adam(learnt)
        self._config = config

    def update(self, batch: Batch) -> dict[str, float]:
        """See TwinCriticsLearner."""
        features = self.network.prepare(self._seen(batch.observation).float())
        actions = self._tensor(batch.action).long()
        target = self._target(batch)
        values = self.critics(features)  # (2, B, A)
        index = actions.expand(2, -1).unsqueeze(-1)
        critic_loss = twin_value_loss(values.gather(2, index).squeeze(-1), target)
        table = torch.log_softmax(self.network.of_features(features), dim=1)  # (B, A)
        chances, lesser = table.exp(), values.detach().amin(dim=0)
        temperature = self._log_temperature.detach().exp()
        actor_loss = (chances * (temperature * table - lesser)).sum(dim=1).mean()
        expected = (chances * table).sum(dim=1)  # (B,) -entropy
        loss = critic_loss + actor_loss
        if self._config.learn_temperature:
            loss = loss + temperature_loss(self._log_temperature, expected, self._target_entropy)
        descend(self._optimizer, loss)
        self._follow()
        self.updates += 1
        if self.updates % FIGURES_PERIOD:
            return {}
        return {
            "critic_loss": critic_loss.item(),
            "actor_loss": actor_loss.item(),
            "q_mean": values.detach().mean().item(),
            "entropy": -expected.detach().mean().item(),
            "temperature": temperature.item(),
        }

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        features = self.network.prepare(self._seen(batch.next_observation).float())
        return soft_expected_target(
            self._tensor(batch.reward) * self._config.reward_factor,
            self._tensor(batch.discount),
            self._slow_critics(features),
            torch.log_softmax(self.network.of_features(features), dim=1),
            self._log_temperature.exp(),
        )

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """See TwinCriticsLearner."""
        return {"adam": self._optimizer}

    def groups(self) -> dict[str, Mapping[str, Tensor]]:
        """See TwinCriticsLearner."""
        return {"temperature": {"log": self._log_temperature}}

    @torch.no_grad()
    def restore_groups(self, tensors: Mapping[str, Tensor]) -> None:
        """See TwinCriticsLearner."""
        self._log_temperature.copy_(tensors["temperature.log"])
