"""Networks: observations in, numbers for each action out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from services.common.spec import PolicySpec
from services.trainer.config import NetworkConfig, QNetworkConfig
from services.trainer.encoders import encoder
from services.trainer.noisy import NoisyLinear

Linear = Callable[[int, int], nn.Module]


class Trunk(nn.Sequential):
    """(B, *observation) → (B, width): an encoder, and linear layers, each with ReLU."""

    def __init__(self, spec: PolicySpec, config: NetworkConfig, linear: Linear = nn.Linear) -> None:
        layers, features = encoder(spec.observation, config)
        self.width = config.hidden[-1] if config.hidden else features
        hidden = hidden_layers((features, *config.hidden), config.layer_norm, linear)
        super().__init__(*layers, *hidden)


def hidden_layers(
    sizes: tuple[int, ...], layer_norm: bool, linear: Linear = nn.Linear
) -> list[nn.Module]:
    """From each size to the next: linear, LayerNorm if wanted, ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers.append(linear(inputs, outputs))
        if layer_norm:
            layers.append(nn.LayerNorm(outputs))
        layers.append(nn.ReLU())
    return layers


class DuelingHead(nn.Module):
    """A state's value and the actions' advantages, each from a hidden layer of its own.

    Args:
        inputs, hidden: of that layer.
        outputs: numbers for each action.
    """

    def __init__(
        self, inputs: int, hidden: int, actions: int, outputs: int, layer_norm: bool, linear: Linear
    ) -> None:
        super().__init__()
        self.actions, self.outputs = actions, outputs
        sizes = (inputs, hidden)
        self.value = nn.Sequential(
            *hidden_layers(sizes, layer_norm, linear), linear(hidden, outputs)
        )
        self.advantage = nn.Sequential(
            *hidden_layers(sizes, layer_norm, linear), linear(hidden, actions * outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) → (B, actions · outputs)"""
        value = self.value(x).unsqueeze(1)  # (B, 1, outputs)
        advantage = self.advantage(x).reshape(-1, self.actions, self.outputs)
        return dueling_values(value, advantage).flatten(1)


def dueling_values(value: Tensor, advantage: Tensor) -> Tensor:
    """Q = V + A - mean A (Wang et al. 2016, eq. 9): (B, 1, …), (B, actions, …) → the latter."""
    return value + advantage - advantage.mean(dim=1, keepdim=True)


class QNetwork(nn.Module):
    """Action values; see QNetworkConfig."""

    def __init__(self, spec: PolicySpec, config: QNetworkConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        linear: Linear = NoisyLinear if config.noisy else nn.Linear
        outputs = max(config.quantiles, 1)
        if config.dueling:
            *shared, last = config.hidden
            self.trunk = Trunk(spec, config.model_copy(update={"hidden": tuple(shared)}), linear)
            self.head: nn.Module = DuelingHead(
                self.trunk.width, last, spec.actions, outputs, config.layer_norm, linear
            )
        else:
            self.trunk = Trunk(spec, config, linear)
            self.head = linear(self.trunk.width, spec.actions * outputs)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B, actions)"""
        if self.config.quantiles:
            return self.quantiles(observations).mean(dim=2)
        values: Tensor = self.head(self.trunk(observations.float()))
        return values

    def quantiles(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B, actions, quantiles)"""
        flat: Tensor = self.head(self.trunk(observations.float()))
        return flat.reshape(-1, self.spec.actions, self.config.quantiles)


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
    correction begins at 0, so that it begins by doing what π₀ prefers. softmax(q / τ) is its own
    policy: q are soft action values, but for what is the same for all actions of a state.

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
        for parameter in correction.head.parameters():
            nn.init.zeros_(parameter)

    def log_prior(self, observations: Tensor) -> Tensor:
        """log π₀ of each action: (B, *observation) → (B, actions)"""
        scaled = self.base(observations) / self.prior_temperature
        return torch.log_softmax(scaled, dim=1).clamp_min(self.floor)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B, actions)"""
        prior = self.temperature * self.log_prior(observations)
        values: Tensor = prior + self.correction(observations)
        return values
