"""From the numbers that a network gives to a distribution over actions, of each kind there is.

A head works in units of its own: indices for discrete actions, normalised units (see
`services.common.action_space.Box`) for those in a Box. `to_environment` gives the environment's.
It holds no weights. B is the batch, P the numbers a network gives for an observation, which are
the policy's outputs side by side; k the components or elements of an action.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.common.action_space import ActionSpace, Box, Discrete, MultiDiscrete
from services.common.spec import Distribution, PolicySpec

Array = npt.NDArray[Any]
_LOG_ROOT_TAU = math.log(math.tau) / 2


class Head(nn.Module, ABC):
    """A distribution over actions, by its parameters."""

    lengths: tuple[int, ...]
    """Of the policy's outputs, which make up the P parameters."""

    @property
    def parameters_n(self) -> int:
        """P."""
        return sum(self.lengths)

    @abstractmethod
    def greedy(self, parameters: Tensor) -> Tensor:
        """The best action in the environment's own units: (B, P) → (B, *action)"""

    @abstractmethod
    def draw(self, parameters: Array, generator: np.random.Generator) -> Array:
        """Actions in the head's units: (B, P) → (B, k), or (B,) for Discrete."""

    @abstractmethod
    def log_probability(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Of actions in the head's units: (B, P), (B, …) → (B,)"""

    @abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """(B, P) → (B,), in nats."""

    def to_environment(self, actions: Array) -> Array:
        """Actions in the environment's own units, of its own type and shape."""
        return actions

    def outputs(self, parameters: Tensor) -> tuple[Tensor, ...]:
        """The policy's outputs, as a model file names them one by one."""
        return torch.split(parameters, list(self.lengths), dim=1)


class Categorical(Head):
    """One choice of n by its logits; of action values it takes the greatest."""

    def __init__(self, space: Discrete) -> None:
        super().__init__()
        self.lengths = (space.n,)

    def greedy(self, parameters: Tensor) -> Tensor:
        """See Head."""
        return parameters.argmax(dim=1)

    def draw(self, parameters: Array, generator: np.random.Generator) -> Array:
        """See Head. By the inverse of the cumulative distribution."""
        return _choose(parameters, generator.random(len(parameters)))

    def log_probability(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """See Head."""
        return -functional.cross_entropy(parameters, actions, reduction="none")

    def entropy(self, parameters: Tensor) -> Tensor:
        """See Head."""
        table = torch.log_softmax(parameters, dim=1)
        return -(table.exp() * table).sum(dim=1)


class Categoricals(Head):
    """Several choices at once, each by logits of its own."""

    def __init__(self, space: MultiDiscrete) -> None:
        super().__init__()
        self.lengths, self._nvec = (space.choices,), space.nvec
        self._starts = space.starts

    def greedy(self, parameters: Tensor) -> Tensor:
        """See Head."""
        return torch.stack([part.argmax(dim=1) for part in self._split(parameters)], dim=1)

    def draw(self, parameters: Array, generator: np.random.Generator) -> Array:
        """See Head."""
        shares = generator.random((len(parameters), len(self._nvec)))
        parts = np.split(parameters, self._starts[1:], axis=1)
        return np.stack([_choose(p, shares[:, i]) for i, p in enumerate(parts)], axis=1)

    def log_probability(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """See Head."""
        tables = [torch.log_softmax(part, dim=1) for part in self._split(parameters)]
        offsets = torch.tensor(self._starts, device=actions.device)
        return torch.cat(tables, dim=1).gather(1, actions + offsets).sum(dim=1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See Head."""
        tables = [torch.log_softmax(part, dim=1) for part in self._split(parameters)]
        table = torch.cat(tables, dim=1)
        return -(table.exp() * table).sum(dim=1)

    def _split(self, parameters: Tensor) -> tuple[Tensor, ...]:
        return torch.split(parameters, list(self._nvec), dim=1)


class _InBox(Head):
    """What heads for actions in a Box share: their units."""

    low: Tensor
    high: Tensor
    width: Tensor
    centre: Tensor

    def __init__(self, space: Box) -> None:
        super().__init__()
        self.space, self.size = space, space.size
        self.lengths = (self.size, self.size)
        bounds = (
            (space.lower - space.centre) / space.half,
            (space.upper - space.centre) / space.half,
        )
        rows = {"low": bounds[0], "high": bounds[1], "width": space.half, "centre": space.centre}
        for name, values in rows.items():
            row = torch.tensor(values, dtype=torch.float32)
            self.register_buffer(name, row, persistent=False)
        self._log_half = float(np.log(space.half).sum())
        self._clip_low, self._clip_high = (bound.astype(np.float32) for bound in bounds)

    def to_environment(self, actions: Array) -> Array:
        """See Head."""
        return self.space.rescale(actions.astype(np.float64))

    def rescale(self, actions: Tensor) -> Tensor:
        """(B, k) in the head's units → (B, *action) in the environment's own."""
        own = (self.centre + self.width * actions).clamp(
            self.centre + self.width * self.low, self.centre + self.width * self.high
        )
        dtype = torch.float64 if self.space.dtype == "float64" else torch.float32
        return own.to(dtype).reshape(-1, *self.space.shape)

    def normalise(self, actions: Tensor) -> Tensor:
        """(B, *action) in the environment's own units → (B, k) in the head's."""
        return (actions.reshape(-1, self.size).float() - self.centre) / self.width


class ClippedGaussian(_InBox):
    """A diagonal Gaussian whose draws are clipped to the bounds.

    What is clipped counts with the probability of all that is clipped so, which lowers the
    variance of policy gradients (Fujita & Maeda 2018) and needs only what was done.
    """

    def greedy(self, parameters: Tensor) -> Tensor:
        """See Head."""
        return self.rescale(parameters[:, : self.size])

    def draw(self, parameters: Array, generator: np.random.Generator) -> Array:
        """See Head."""
        mean, log_std = parameters[:, : self.size], parameters[:, self.size :]
        noise = generator.standard_normal(mean.shape, dtype=np.float32)
        drawn: Array = np.clip(mean + np.exp(log_std) * noise, self._clip_low, self._clip_high)
        return drawn

    def log_probability(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """See Head; of a density in the environment's own units."""
        mean, log_std = parameters.chunk(2, dim=1)
        z = (actions - mean) * torch.exp(-log_std)  # (B, k)
        inside = -0.5 * z * z - log_std - (_LOG_ROOT_TAU + torch.log(self.width))
        outside = actions <= self.low, actions >= self.high
        tails = torch.special.log_ndtr(torch.where(outside[1], -z, z))
        return torch.where(outside[0] | outside[1], tails, inside).sum(dim=1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See Head; of the Gaussian before it is clipped."""
        log_std = parameters[:, self.size :]
        return (log_std + _LOG_ROOT_TAU + 0.5).sum(dim=1) + self._log_half


class TanhGaussian(_InBox):
    """A diagonal Gaussian squashed into the bounds by tanh (Haarnoja et al. 2018, appendix C)."""

    def greedy(self, parameters: Tensor) -> Tensor:
        """See Head."""
        return self.rescale(torch.tanh(parameters[:, : self.size]))

    def draw(self, parameters: Array, generator: np.random.Generator) -> Array:
        """See Head."""
        mean, log_std = parameters[:, : self.size], parameters[:, self.size :]
        noise = generator.standard_normal(mean.shape, dtype=np.float32)
        drawn: Array = np.tanh(mean + np.exp(log_std) * noise)
        return drawn

    def draw_with_gradient(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B, k) in normalised units, and the log of their density in those (B,)."""
        mean, log_std = parameters.chunk(2, dim=1)
        before = torch.addcmul(mean, log_std.exp(), noise)
        # log(1 - tanh²x) = 2·(log 2 - x - softplus(-2x)), without cancellation.
        slope = 2 * (math.log(2) - before - functional.softplus(-2 * before))
        density = -0.5 * noise * noise - log_std - slope
        return torch.tanh(before), density.sum(dim=1) - self.size * _LOG_ROOT_TAU

    def log_probability(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """See Head; of a density in the environment's own units."""
        mean, log_std = parameters.chunk(2, dim=1)
        inside = 1 - torch.finfo(actions.dtype).eps
        before = torch.atanh(actions.clamp(-inside, inside))
        z = (before - mean) * torch.exp(-log_std)
        slope = 2 * (math.log(2) - before - functional.softplus(-2 * before))
        density = -0.5 * z * z - log_std - _LOG_ROOT_TAU - slope
        return density.sum(dim=1) - self._log_half

    def entropy(self, parameters: Tensor) -> Tensor:
        """There is no formula; estimate it from draws."""
        raise NotImplementedError("a squashed Gaussian's entropy has no closed form")


class Deterministic(_InBox):
    """The action itself, given by the network within [-1, 1]; rescaled, it is all there is."""

    def __init__(self, space: Box) -> None:
        super().__init__(space)
        self.lengths = (self.size,)

    def greedy(self, parameters: Tensor) -> Tensor:
        """See Head."""
        return self.rescale(parameters)

    def draw(self, parameters: Array, generator: np.random.Generator) -> Array:
        """See Head. Nothing is drawn."""
        return parameters

    def log_probability(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """See Head: certain."""
        return parameters.new_zeros(len(parameters))

    def entropy(self, parameters: Tensor) -> Tensor:
        """See Head: none."""
        return parameters.new_zeros(len(parameters))

    def outputs(self, parameters: Tensor) -> tuple[Tensor, ...]:
        """Nothing beside the action."""
        return ()


def head_of(spec: PolicySpec) -> Head:
    """The head of a policy with this spec."""
    match spec.action, spec.distribution:
        case Discrete() as space, _:
            return Categorical(space)
        case MultiDiscrete() as space, _:
            return Categoricals(space)
        case Box() as space, Distribution.TANH_GAUSSIAN:
            return TanhGaussian(space)
        case Box() as space, Distribution.DETERMINISTIC:
            return Deterministic(space)
        case Box() as space, _:
            return ClippedGaussian(space)


def policy_gradient_distribution(space: ActionSpace) -> Distribution:
    """What PPO's and A2C's policies give, by what they act in."""
    return Distribution.GAUSSIAN if isinstance(space, Box) else Distribution.LOGITS


def _choose(logits: Array, shares: Array) -> Array:
    """Where the cumulative distribution of (B, n) logits passes shares (B,) of its total."""
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    cumulative = weights.cumsum(axis=1)
    chosen: Array = (shares[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)
    return chosen
