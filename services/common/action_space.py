"""Which actions there are: one of a few, several such choices at once, or numbers within bounds.

One description serves the trainer, the policy repository, the inference service and the wire.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Floats = npt.NDArray[np.float64]
AxisLength = Annotated[int, Field(ge=1)]


class Discrete(BaseModel):
    """One of n actions, 0 … n-1; `names` where the environment has some, by index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["discrete"] = "discrete"
    n: Annotated[int, Field(ge=1)]
    names: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """Element type of an action."""
        return "int64"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an action, without batch."""
        return ()

    @property
    def size(self) -> int:
        """Elements of an action."""
        return 1

    @property
    def choices(self) -> int:
        """Flags in a mask."""
        return self.n

    @property
    def starts(self) -> list[int]:
        """Where each component's choices begin among all: there is one component."""
        return [0]

    def __str__(self) -> str:
        return f"Discrete({self.n})"


class MultiDiscrete(BaseModel):
    """Several choices at once: component i is one of 0 … nvec[i]-1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["multi_discrete"] = "multi_discrete"
    nvec: Annotated[tuple[AxisLength, ...], Field(min_length=1)]

    @property
    def dtype(self) -> str:
        """Element type of an action."""
        return "int64"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an action, without batch."""
        return (len(self.nvec),)

    @property
    def size(self) -> int:
        """Elements of an action."""
        return len(self.nvec)

    @property
    def choices(self) -> int:
        """Flags in a mask: those of all components, one after another."""
        return sum(self.nvec)

    @cached_property
    def starts(self) -> list[int]:
        """Where each component's choices begin among all."""
        return [sum(self.nvec[:i]) for i in range(len(self.nvec))]

    def __str__(self) -> str:
        return f"MultiDiscrete({list(self.nvec)})"


class Box(BaseModel):
    """An array of numbers, each within bounds of its own.

    low, high: of each element in row-major order, both within; None where there is no bound.

    Policies work in normalised units, in which an element with two bounds lies in [-1, 1]; one
    that lacks a bound is as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["box"] = "box"
    dtype: Literal["float32", "float64"] = "float32"
    shape: tuple[AxisLength, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    @model_validator(mode="after")
    def _fits(self) -> Box:
        if not len(self.low) == len(self.high) == self.size:
            raise ValueError(
                f"a Box of shape {list(self.shape)} needs {self.size} bounds on each side, "
                f"not {len(self.low)} and {len(self.high)}"
            )
        if not (self.lower < self.upper).all():
            raise ValueError(f"low {list(self.low)} is not below high {list(self.high)}")
        return self

    @property
    def size(self) -> int:
        """Elements of an action."""
        return math.prod(self.shape)

    @property
    def choices(self) -> int:
        """Flags in a mask: there are none."""
        return 0

    @cached_property
    def lower(self) -> Floats:
        """(size,), -inf where there is no bound."""
        return np.array([-np.inf if bound is None else bound for bound in self.low])

    @cached_property
    def upper(self) -> Floats:
        """(size,), inf where there is no bound."""
        return np.array([np.inf if bound is None else bound for bound in self.high])

    @cached_property
    def bounded(self) -> npt.NDArray[np.bool_]:
        """(size,) where there are both bounds."""
        return np.isfinite(self.lower) & np.isfinite(self.upper)

    @cached_property
    def centre(self) -> Floats:
        """(size,) of the bounds: 0 in normalised units."""
        return np.where(self.bounded, self._finite(self.lower) + self._finite(self.upper), 0) / 2

    @cached_property
    def half(self) -> Floats:
        """(size,) half the distance of the bounds: 1 in normalised units."""
        distance = self._finite(self.upper) - self._finite(self.lower)
        return np.where(self.bounded, distance / 2, 1)

    def rescale(self, normalised: Floats) -> npt.NDArray[np.floating]:
        """Actions `(n, *shape)` in the Box's own units and within its bounds.

        Args:
            normalised: (n, size)
        """
        own = np.clip(self.centre + self.half * normalised, self.lower, self.upper)
        return own.astype(self.dtype).reshape(-1, *self.shape)

    @staticmethod
    def _finite(bounds: Floats) -> Floats:
        return np.where(np.isfinite(bounds), bounds, 0)

    def __str__(self) -> str:
        if len({*self.low}) == len({*self.high}) == 1:
            return f"Box({self.low[0]}, {self.high[0]}, {list(self.shape)}, {self.dtype})"
        return f"Box({list(self.low)}, {list(self.high)}, {list(self.shape)}, {self.dtype})"


ActionSpace = Annotated[Discrete | MultiDiscrete | Box, Field(discriminator="kind")]
