"""Networks: observations in, numbers for each action out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from services.common.spec import PolicySpec
from services.trainer.config import NetworkConfig


class Rescale(nn.Module):
    """Divides each observation element by a constant, in the network so that exports carry it."""

    scale: Tensor

    def __init__(self, scale: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *shape) → (B, *shape)"""
        return observations / self.scale


class OneHot(nn.Module):
    """Numbers of states as vectors, in which a network can tell them apart."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.states = states

    def forward(self, states: Tensor) -> Tensor:
        """(B,) → (B, states)"""
        return nn.functional.one_hot(states.long(), self.states).float()


def trunk(spec: PolicySpec, config: NetworkConfig) -> nn.Sequential:
    """(B, *observation) → (B, hidden[-1]): linear layers, each with ReLU."""
    states = spec.observation.n
    size = states or spec.observation.size
    layers: list[nn.Module] = [OneHot(states) if states else nn.Flatten()]
    if config.observation_scale:
        layers.append(Rescale(config.observation_scale))
    for inputs, outputs in pairwise((size, *config.hidden)):
        layers.append(nn.Linear(inputs, outputs))
        if config.layer_norm:
            layers.append(nn.LayerNorm(outputs))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class QNetwork(nn.Module):
    """Action values."""

    def __init__(self, spec: PolicySpec, config: NetworkConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.trunk = trunk(spec, config)
        self.head = nn.Linear(config.hidden[-1], spec.actions)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B, actions)"""
        values: Tensor = self.head(self.trunk(observations.float()))
        return values


class QTable(nn.Module):
    """Action values looked up by the number of the state.

    Args:
        values: (states, actions)
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(values, requires_grad=False)

    def forward(self, states: Tensor) -> Tensor:
        """(B,) → (B, actions)"""
        values: Tensor = nn.functional.embedding(states, self.table)
        return values


class LeashedQNetwork(nn.Module):
    """A policy under KL control: q(s, a) = τ·log π₀(a|s) + a correction that is learnt.

    π₀ = softmax(q₀ / prior_temperature) is the policy it starts from, and stays as it is. The
    correction begins at 0, so that it begins by doing what π₀ prefers.

    Args:
        base: q₀; no gradient flows into it.
        correction: of the same spec.
        temperature: τ, in the units of the values.
        floor: lower bound of log π₀.
    """

    def __init__(
        self,
        base: nn.Module,
        correction: QNetwork,
        temperature: float,
        prior_temperature: float,
        floor: float,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.correction = correction
        self.temperature, self.prior_temperature = temperature, prior_temperature
        self.floor = floor
        nn.init.zeros_(correction.head.weight)
        nn.init.zeros_(correction.head.bias)

    def log_prior(self, observations: Tensor) -> Tensor:
        """log π₀ of each action: (B, *observation) → (B, actions)"""
        scaled = self.base(observations) / self.prior_temperature
        return torch.log_softmax(scaled, dim=1).clamp_min(self.floor)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B, actions)"""
        prior = self.temperature * self.log_prior(observations)
        values: Tensor = prior + self.correction(observations)
        return values
