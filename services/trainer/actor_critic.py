"""Networks with an actor and critics."""

from __future__ import annotations

import copy
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from services.common.spec import Distribution, PolicySpec
from services.trainer.acting import Step, affine, leashed_steps, numpy_steps
from services.trainer.config import ActorCriticNetworkConfig, NetworkConfig
from services.trainer.encoders import encoder
from services.trainer.heads import head_of
from services.trainer.networks import LeashedQNetwork, Trunk
from services.trainer.normalising import Normaliser
from services.trainer.stacked import StackedMLP

ACTOR, CRITIC = 0, 1
LOG_STD_BOUNDS = (-20.0, 2.0)


class Prepare(nn.Sequential):
    """Observations as the first layer takes them: (B, *observation) → (B, size)"""

    def __init__(self, spec: PolicySpec, config: ActorCriticNetworkConfig) -> None:
        layers, self.size = encoder(spec.observation, config)
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
        return self.of_features(self.prepare(observations.float()))

    def acting(self) -> list[Step] | None:
        """The same in numpy, by the weights as they change; None where it cannot be."""
        head = self.head.numpy_steps() if isinstance(self.head, BoundedDeviations) else None
        parts = [
            numpy_steps(self.prepare),
            numpy_steps(self.body),
            head or numpy_steps(self.head),
        ]
        if self.log_std is not None or any(part is None for part in parts):
            return None
        return [step for part in parts for step in part or ()]

    def of_features(self, features: Tensor) -> Tensor:
        """Of observations that were prepared already: (B, size) → (B, P)"""
        parameters: Tensor = self.head(self.body(features))
        return parameters if self.log_std is None else with_deviations(parameters, self.log_std)


class ValuedPolicy(Policy):
    """A policy, and what its critic says of the same observations.

    Args:
        scale: multiplies values, which then are in units of the environment's rewards.
    """

    scale: Tensor

    def __init__(self, actor: Policy, critic: nn.Module, scale: float) -> None:
        super().__init__(actor.prepare, actor.body, actor.head, actor.log_std)
        self.critic = critic
        self.register_buffer("scale", torch.tensor([scale]))

    def value(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B,)"""
        values: Tensor = self.critic(self.prepare(observations.float())) * self.scale
        return values.squeeze(-1)


class BoundedDeviations(nn.Linear):
    """A layer that gives means and log standard deviations, the latter within bounds.

    Args:
        initial_log_std: what they are at first, about.
    """

    def __init__(self, inputs: int, size: int, initial_log_std: float) -> None:
        super().__init__(inputs, 2 * size)
        self.size = size
        with torch.no_grad():
            self.bias[size:] += initial_log_std

    def forward(self, features: Tensor) -> Tensor:
        """(B, hidden) → (B, 2·k)"""
        mean, log_std = super().forward(features).chunk(2, dim=1)
        return torch.cat([mean, log_std.clamp(*LOG_STD_BOUNDS)], dim=1)

    def numpy_steps(self) -> list[Step] | None:
        """The same in numpy; see `acting`."""
        if self.weight.device.type != "cpu":
            return None
        return [affine(self.weight.T, self.bias), self._bounded]

    def _bounded(self, both: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        np.clip(both[:, self.size :], *LOG_STD_BOUNDS, out=both[:, self.size :])
        return both


def actor(
    spec: PolicySpec, config: ActorCriticNetworkConfig, initial_log_std: float = 0.0
) -> Policy:
    """A policy of its own: logits, a Gaussian's parameters, or actions within [-1, 1]."""
    prepare, width = Prepare(spec, config), config.hidden[-1]
    body = StackedMLP(1, (prepare.size, *config.hidden), config.activation, config.layer_norm)
    parameters = head_of(spec).parameters_n
    match spec.distribution:
        case Distribution.TANH_GAUSSIAN:
            head: nn.Module = BoundedDeviations(width, spec.action.size, initial_log_std)
        case Distribution.DETERMINISTIC:
            head = nn.Sequential(nn.Linear(width, parameters), nn.Tanh())
        case _:
            head = nn.Linear(width, parameters)
    return Policy(prepare, body.alone(0), head)


def twin_critics(
    spec: PolicySpec, config: ActorCriticNetworkConfig, action_size: int, outputs: int
) -> StackedMLP:
    """Two critics: (B, observation + action_size) → (2, B, outputs)"""
    inputs = Prepare(spec, config).size + action_size
    sizes = (inputs, *config.hidden, outputs)
    return StackedMLP(2, sizes, config.activation, config.layer_norm, linear_end=True)


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

    def observe(self, observations: Tensor) -> None:
        """Have observations shift what others are normalised by; see Prepare."""
        self.prepare.observe(observations)

    def policy(self) -> nn.Module:
        """The actor alone, with its weights now."""
        body = self.hidden.alone(ACTOR)
        return copy.deepcopy(Policy(self.prepare, body, self.actor_head, self.log_std))

    def valued_policy(self, scale: float) -> nn.Module:
        """The actor, and the critic's values times a scale, with their weights now."""
        actor = Policy(self.prepare, self.hidden.alone(ACTOR), self.actor_head, self.log_std)
        critic = nn.Sequential(self.hidden.alone(CRITIC), self.critic_head)
        return copy.deepcopy(ValuedPolicy(actor, critic, scale))

    def parameters_of(self, observations: Tensor) -> Tensor:
        """The policy's parameters: (B, *observation) → (B, P)"""
        return self._parameters_of(self.hidden.one(ACTOR, self.prepare(observations.float())))

    def acting(self) -> list[Step] | None:
        """What `parameters_of` does, in numpy, by the weights as they change; None where it
        cannot be."""
        parts = [
            numpy_steps(self.prepare),
            self.hidden.numpy_steps(ACTOR),
            numpy_steps(self.actor_head),
        ]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        if self.log_std is not None:
            known.append([_append(self.log_std.detach().numpy())])
        return [step for part in known for step in part]

    def value(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B,)"""
        prepared = self.prepare(observations.float())
        values: Tensor = self.critic_head(self.hidden.one(CRITIC, prepared))
        return values.squeeze(-1)

    def _parameters_of(self, features: Tensor) -> Tensor:
        means: Tensor = self.actor_head(features)
        return means if self.log_std is None else with_deviations(means, self.log_std)


class LeashedActorCritic(nn.Module):
    """A leashed policy that learns from advantages, and a critic that judges its states.

    Args:
        actor: whose values, at temperature 1, are the logits.
        config: of the critic.
        usual_value: what the critic says, or nearly so, of every state before it has learnt.
            Where that is far off, the first advantages say nothing but that it is.
    """

    def __init__(
        self,
        actor: LeashedQNetwork,
        spec: PolicySpec,
        config: NetworkConfig,
        usual_value: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec, self.actor = spec, actor
        self.critic_trunk = Trunk(spec, config)
        self.critic_head = nn.Linear(self.critic_trunk.width, 1)
        with torch.no_grad():
            self.critic_head.weight.mul_(0.1)
            self.critic_head.bias.fill_(usual_value)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *observation) → the logits (B, actions), values (B,)"""
        return self.parameters_of(observations), self.value(observations)

    def policy(self) -> nn.Module:
        """The actor alone."""
        return self.actor

    def parameters_of(self, observations: Tensor) -> Tensor:
        """The logits: (B, *observation) → (B, actions)"""
        logits: Tensor = self.actor(observations)
        return logits

    def value(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B,)"""
        values: Tensor = self.critic_head(self.critic_trunk(observations.float()))
        return values.squeeze(-1)

    def acting(self) -> list[Step] | None:
        """What `parameters_of` does, in numpy; see ActorCritic."""
        return leashed_steps(self.actor)

    def observe(self, observations: Tensor) -> None:
        """Nothing is normalised by what was seen."""


def _append(log_std: npt.NDArray[np.float32]) -> Step:
    return lambda x: np.concatenate([x, np.broadcast_to(log_std, x.shape)], axis=1)


def with_deviations(means: Tensor, log_std: Tensor) -> Tensor:
    """A Gaussian's parameters: (B, k), (k,) → (B, 2·k)"""
    return torch.cat([means, log_std.expand_as(means)], dim=1)
