"""How rows are drawn: settings, and the uniform sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidConfig
from services.common.replay.ring import Change, Index, Ring

Floats = npt.NDArray[np.float32]
NUMBER_BITS = 48


@dataclass(frozen=True)
class Uniform:
    """Every step row that can be sampled is equally likely."""


UNIFORM = Uniform()


@dataclass(frozen=True)
class Prioritized:
    """Proportional prioritisation (Schaul et al. 2016): P(i) = pᵢ^α / Σ p^α, p = |δ| + ε.

    alpha: priority exponent α; 0 is uniform.
    beta: importance-sampling exponent β of the weights (p_min / pᵢ)^(α·β), which are
        (N·P(i))^-β over their greatest.
    epsilon: keeps every priority above 0.
    """

    alpha: float = 0.6
    beta: float = 0.4
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or not self.epsilon > 0:
            raise InvalidConfig(
                f"prioritised sampler has alpha {self.alpha}, beta {self.beta} and epsilon "
                f"{self.epsilon}, expected none below 0 and epsilon above"
            )


@dataclass(frozen=True)
class Drawn:
    """Rows drawn of one shard: numbers (n,) and their importance weights (n,), None for 1.

    generation: of the ring; a number means the same row only within one.
    """

    shard: int
    numbers: Index
    weights: Floats | None = None
    generation: int = 0

    @property
    def index(self) -> Index:
        """(n,) what names these rows for good: the generation stands above the number."""
        return self.numbers + (self.generation << NUMBER_BITS) if self.generation else self.numbers


class Sampler(Protocol):
    """Draws of some rings, which tell it what changes in them."""

    def draw(self, count: int, generator: np.random.Generator) -> list[Drawn]:
        """Draw step rows with replacement; there must be some."""
        ...

    def changed(self, shard: int, change: Change) -> None:
        """Rows of a ring came and went."""
        ...

    def started_over(self, shard: int) -> None:
        """A ring lost rows that had been added."""
        ...


class UniformSampler:
    """Draws every step row equally often."""

    def __init__(self, rings: Sequence[Ring]) -> None:
        self._rings = rings

    def draw(self, count: int, generator: np.random.Generator) -> list[Drawn]:
        """See `Sampler`."""
        if len(self._rings) == 1:
            return [_uniformly(0, self._rings[0], count, generator)]
        sizes = np.array([ring.size for ring in self._rings])
        counts = generator.multinomial(count, sizes / sizes.sum()).tolist()
        drawn = zip(self._rings, counts, strict=True)
        return [_uniformly(i, ring, n, generator) for i, (ring, n) in enumerate(drawn) if n]

    def changed(self, shard: int, change: Change) -> None:
        """See `Sampler`."""

    def started_over(self, shard: int) -> None:
        """See `Sampler`."""


def _uniformly(shard: int, ring: Ring, count: int, generator: np.random.Generator) -> Drawn:
    return Drawn(shard, ring.draw(count, generator), generation=ring.generation)
