"""Networks: observations in, numbers for each action out."""

from __future__ import annotations

import math
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


def trunk(spec: PolicySpec, config: NetworkConfig) -> nn.Sequential:
    """(B, *observation) → (B, hidden[-1]): linear layers, each with ReLU."""
    size = spec.observation.size
    layers: list[nn.Module] = [nn.Flatten()]
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


class ActorCritic(nn.Module):
    """Action logits and a state value from networks of their own."""

    def __init__(self, spec: PolicySpec, config: NetworkConfig) -> None:
        super().__init__()
        self.actor_trunk = trunk(spec, config)
        self.actor_head = nn.Linear(config.hidden[-1], spec.actions)
        self.critic_trunk = trunk(spec, config)
        self.critic_head = nn.Linear(config.hidden[-1], 1)
        _orthogonal(self, gain=math.sqrt(2))
        nn.init.orthogonal_(self.actor_head.weight, 0.01)
        nn.init.orthogonal_(self.critic_head.weight, 1.0)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B, actions), the logits"""
        logits: Tensor = self.actor_head(self.actor_trunk(observations.float()))
        return logits

    def value(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B,)"""
        values: Tensor = self.critic_head(self.critic_trunk(observations.float()))
        return values.squeeze(-1)


def _orthogonal(network: nn.Module, gain: float) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
