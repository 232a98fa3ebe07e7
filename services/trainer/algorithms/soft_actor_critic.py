"""What soft actor-critic is for any action (Haarnoja et al. 2018): entropy held at a target.

Actor, critics and temperature step together, each by its own loss: they share no weights.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from services.common.replay import Batch
from services.trainer.actor_critic import Policy
from services.trainer.algorithms.twin_critics import FIGURES_PERIOD, TwinCriticsLearner, descend
from services.trainer.config import SACConfig
from services.trainer.heads import Head
from services.trainer.losses import temperature_loss, twin_value_loss
from services.trainer.stacked import StackedMLP


class SoftActorCriticLearner(TwinCriticsLearner):
    """An actor whose entropy is held at a target by a temperature that is learnt.

    Args:
        target_entropy: of a state's distribution over actions, on average.
    """

    network: Policy

    def __init__(
        self,
        actor: Policy,
        head: Head,
        critics: StackedMLP,
        config: SACConfig,
        device: torch.device,
        generator: np.random.Generator,
        target_entropy: float,
    ) -> None:
        super().__init__(actor, head, critics, config, device, generator)
        self._config, self._target_entropy = config, target_entropy
        self._log_temperature = torch.tensor(
            math.log(config.initial_temperature), device=device, requires_grad=True
        )
        learnt: list[Tensor] = [*self._actor_parameters, *self._critic_parameters]
        if config.learn_temperature:
            learnt.append(self._log_temperature)
        self._optimizer = self._adam(learnt)

    @abstractmethod
    def _target_values(
        self, rewards: Tensor, discounts: Tensor, features: Tensor, temperature: Tensor
    ) -> Tensor:
        """Values to learn (B,), from rewards and discounts (B,) and where they led (B, F)."""

    @abstractmethod
    def _values(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both critics' values of the actions taken (2, B), and all they gave."""

    @abstractmethod
    def _policy_loss(
        self, features: Tensor, values: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The actor's loss, and the expected log-probability of what it does (B,).

        Args:
            values: all that the critics gave, see `_values`.
        """

    def update(self, batch: Batch) -> dict[str, float]:
        """See TwinCriticsLearner."""
        features = self.network.prepare(self._seen(batch.observation).float())
        temperature = self._log_temperature.detach().exp()
        target = self._target(batch, temperature)
        taken, values = self._values(features, batch)
        critic_loss = twin_value_loss(taken, target)
        actor_loss, log_density = self._policy_loss(features, values, temperature)
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
    def _target(self, batch: Batch, temperature: Tensor) -> Tensor:
        return self._target_values(
            self._tensor(batch.reward) * self._config.reward_factor,
            self._tensor(batch.discount),
            self.network.prepare(self._seen(batch.next_observation).float()),
            temperature,
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
