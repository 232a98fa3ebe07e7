"""Soft actor-critic in a Box (Haarnoja et al. 2018, "Algorithms and Applications")."""

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
from services.trainer.heads import TanhGaussian, head_of
from services.trainer.losses import soft_twin_target, temperature_loss, twin_value_loss


class SACLearner(TwinCriticsLearner):
    """A squashed Gaussian policy whose entropy is held at a target by its temperature.

    Actor, critics and temperature step together, each by its own loss: they share no weights.
    """

    head: TanhGaussian
    network: Policy

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
        critics = twin_critics(spec, network, spec.action.size, outputs=1)
        super().__init__(
            actor(spec, network, config.initial_log_std), head, critics, config, device, generator
        )
        size = spec.action.size
        self._target_entropy = -float(size) * config.target_entropy_scale
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
        actions = self.head.normalise(self._tensor(batch.action))
        target = self._target(batch)
        values = self.critics(torch.cat([features, actions], dim=1))  # (2, B, 1)
        critic_loss = twin_value_loss(values.squeeze(-1), target)
        noise = self._normal(len(features), actions.shape[1])
        drawn, log_density = self.head.draw_with_gradient(self.network.of_features(features), noise)
        judged = self._judging_critics(torch.cat([features, drawn], dim=1)).amin(dim=0)  # (B, 1)
        temperature = self._log_temperature.detach().exp()
        actor_loss = (temperature * log_density - judged.squeeze(-1)).mean()
        loss = critic_loss + actor_loss
        if self._config.learn_temperature:
            loss = loss + temperature_loss(self._log_temperature, log_density, self._target_entropy)
        descend(self._optimizer, loss)
        self._follow()
        self.updates += 1
        if self.updates % FIGURES_PERIOD:
            return {}
        return {
            "critic_loss": critic_loss.item(),
            "actor_loss": actor_loss.item(),
            "q_mean": values.detach().mean().item(),
            "entropy": -log_density.detach().mean().item(),
            "temperature": temperature.item(),
        }

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        features = self.network.prepare(self._seen(batch.next_observation).float())
        noise = self._normal(len(features), self.head.size)
        drawn, log_density = self.head.draw_with_gradient(self.network.of_features(features), noise)
        values = self._slow_critics(torch.cat([features, drawn], dim=1)).squeeze(-1)  # (2, B)
        return soft_twin_target(
            self._tensor(batch.reward) * self._config.reward_factor,
            self._tensor(batch.discount),
            values,
            log_density,
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
