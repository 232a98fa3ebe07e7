"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from services.common.replay import Batch
from services.common.spec import PolicySpec
from services.trainer.actor_critic import Policy, actor, twin_critics
from services.trainer.algorithms.state import split
from services.trainer.algorithms.twin_critics import FIGURES_PERIOD, TwinCriticsLearner, descend
from services.trainer.config import ActorCriticNetworkConfig, TD3Config
from services.trainer.heads import Deterministic, head_of
from services.trainer.losses import smoothed_actions, twin_target, twin_value_loss


class TD3Learner(TwinCriticsLearner):
    """A deterministic policy; it and the slow copies move once in so many updates."""

    head: Deterministic
    network: Policy

    def __init__(
        self,
        spec: PolicySpec,
        network: ActorCriticNetworkConfig,
        config: TD3Config,
        device: torch.device,
        generator: np.random.Generator,
    ) -> None:
        head = head_of(spec)
        assert isinstance(head, Deterministic)
        critics = twin_critics(spec, network, spec.action.size, outputs=1)
        super().__init__(actor(spec, network), head, critics, config, device, generator)
        self._slow_actor = copy.deepcopy(self.network).requires_grad_(False)
        self._follow_with(self._slow_actor, self.network)
        self._critic_optimizer = self._adam(self._critic_parameters)
        self._actor_optimizer = self._adam(self._actor_parameters)
        self._config = config

    def update(self, batch: Batch) -> dict[str, float]:
        """See TwinCriticsLearner."""
        features = self.network.prepare(self._seen(batch.observation).float())
        actions = self.head.normalise(self._tensor(batch.action))
        values = self.critics(torch.cat([features, actions], dim=1)).squeeze(-1)  # (2, B)
        critic_loss = twin_value_loss(values, self._target(batch))
        descend(self._critic_optimizer, critic_loss)
        self.updates += 1
        if self.updates % self._config.policy_delay == 0:
            self._improve_actor(features)
            self._follow()
        if self.updates % FIGURES_PERIOD:
            return {}
        return {"critic_loss": critic_loss.item(), "q_mean": values.detach().mean().item()}

    def _improve_actor(self, features: Tensor) -> None:
        chosen = torch.cat([features, self.network.of_features(features)], dim=1)
        descend(self._actor_optimizer, -self._judging_critics(chosen)[0].mean())

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        features = self.network.prepare(self._seen(batch.next_observation).float())
        chosen = self._slow_actor.of_features(features)
        noise = self._normal(len(chosen), self.head.size) * self._config.target_noise
        smoothed = smoothed_actions(chosen, noise, self._config.target_noise_clip)
        values = self._slow_critics(torch.cat([features, smoothed], dim=1)).squeeze(-1)  # (2, B)
        reward = self._tensor(batch.reward) * self._config.reward_factor
        return twin_target(reward, self._tensor(batch.discount), values)

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """See TwinCriticsLearner."""
        return {
            "critic_optimizer": self._critic_optimizer,
            "actor_optimizer": self._actor_optimizer,
        }

    def groups(self) -> dict[str, Mapping[str, Tensor]]:
        """See TwinCriticsLearner."""
        return {"slow_actor": self._slow_actor.state_dict()}

    def restore_groups(self, tensors: Mapping[str, Tensor]) -> None:
        """See TwinCriticsLearner."""
        self._slow_actor.load_state_dict(split(tensors, "slow_actor"))
