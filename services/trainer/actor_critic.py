"""Networks with an actor and critics."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from services.common.spec import Distribution, PolicySpec
from services.trainer.config import ActorCriticNetworkConfig
from services.trainer.heads import head_of
from services.trainer.networks import OneHot, Rescale
from services.trainer.normalising import Normaliser
from services.trainer.stacked import StackedMLP

ACTOR, CRITIC = 0, 1


class Prepare(nn.Sequential):
    """Observations as the first layer takes them: (B, *observation) → (B, size)"""

    def __init__(self, spec: PolicySpec, config: ActorCriticNetworkConfig) -> None:
        states = spec.observation.n
        self.size = states or spec.observation.size
        layers: list[nn.Module] = [OneHot(states) if states else nn.Flatten()]
        if config.observation_scale:
            layers.append(Rescale(config.observation_scale))
        if config.normalise_observations:
            layers.append(Normaliser(self.size))
        super().__init__(*layers)

    def observe(self, observations: Tensor) -> None:
        """Have observations (n, *observation) shift the running mean, where there is one."""
        *before, last = self
        if isinstance(last, Normaliser):
            for layer in before:
                observations = layer(observations)
            last.update(observations.cpu().numpy())


class Policy(nn.Module):
    """Parameters of a distribution over actions, from observations.

    Args:
        prepare, body, head: one after another.
        log_std: (k,) of a Gaussian whose deviations depend on no state; the head gives means.
    """

    def __init__(
        self,
        prepare: nn.Module,
        body: nn.Module,
        head: nn.Module,
        log_std: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.prepare, self.body, self.head, self.log_std = prepare, body, head, log_std

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B, P)"""
        means: Tensor = self.head(self.body(self.prepare(observations.float())))
        return means if self.log_std is None else with_deviations(means, self.log_std)


class ActorCritic(nn.Module):
    """A policy's parameters and a state value from networks of their own, side by side.

    Args:
        initial_log_std: of a Gaussian policy, whose deviations depend on no state.
    """

    def __init__(
        self, spec: PolicySpec, config: ActorCriticNetworkConfig, initial_log_std: float = 0.0
    ) -> None:
        super().__init__()
        self.spec = spec
        self.prepare = Prepare(spec, config)
        sizes = (self.prepare.size, *config.hidden)
        self.hidden = StackedMLP(2, sizes, config.activation, config.layer_norm)
        gaussian = spec.distribution == Distribution.GAUSSIAN
        outputs = spec.action.size if gaussian else head_of(spec).parameters_n
        self.actor_head = nn.Linear(config.hidden[-1], outputs)
        self.critic_head = nn.Linear(config.hidden[-1], 1)
        start = torch.full((outputs,), initial_log_std)
        self.log_std = nn.Parameter(start) if gaussian else None
        self.hidden.begin_orthogonal(math.sqrt(2))
        for head, gain in ((self.actor_head, 0.01), (self.critic_head, 1.0)):
            nn.init.orthogonal_(head.weight, gain)
            nn.init.zeros_(head.bias)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *observation) → the policy's parameters (B, P), values (B,)"""
        actor, critic = self.hidden(self.prepare(observations.float())).unbind()  # (B, hidden)
        return self._parameters_of(actor), self.critic_head(critic).squeeze(-1)

    def policy(self) -> Policy:
        """The actor alone, with its weights now."""
        body = self.hidden.alone(ACTOR)
        return copy.deepcopy(Policy(self.prepare, body, self.actor_head, self.log_std))

    def parameters_of(self, observations: Tensor) -> Tensor:
        """The policy's parameters: (B, *observation) → (B, P)"""
        return self._parameters_of(self.hidden.one(ACTOR, self.prepare(observations.float())))

    def value(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B,)"""
        prepared = self.prepare(observations.float())
        values: Tensor = self.critic_head(self.hidden.one(CRITIC, prepared))
        return values.squeeze(-1)

    def _parameters_of(self, features: Tensor) -> Tensor:
        means: Tensor = self.actor_head(features)
        return means if self.log_std is None else with_deviations(means, self.log_std)


def with_deviations(means: Tensor, log_std: Tensor) -> Tensor:
    """A Gaussian's parameters: (B, k), (k,) → (B, 2·k)"""
    return torch.cat([means, log_std.expand_as(means)], dim=1)
