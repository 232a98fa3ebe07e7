"""What a policy takes and gives."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from services.common.errors import InvalidInput

DTypeName = Literal["float32", "float64", "uint8", "int32", "int64"]
AxisLength = Annotated[int, Field(ge=1)]


class Distribution(StrEnum):
    """What the numbers of a policy's output mean."""

    Q_VALUES = "q_values"
    LOGITS = "logits"


class ObservationSpace(BaseModel):
    """Shape (without batch) and element type of an observation.

    n: observations are whole numbers below it, such as the number of a state; None: no bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: DTypeName
    shape: tuple[AxisLength, ...]
    n: Annotated[int, Field(ge=1)] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def check(self, observations: npt.NDArray[np.generic]) -> None:
        """Refuse a batch `(n, *shape)` of another shape, one with NaN or infinity, or one out of
        bounds.

        Raises:
            InvalidInput: with what was expected and the first row that does not fit.
        """
        if observations.shape[1:] != self.shape:
            raise InvalidInput(
                f"observation has shape {_text(observations.shape[1:])}, "
                f"expected {_text(self.shape)} of {self.dtype}"
            )
        if np.issubdtype(observations.dtype, np.floating):
            finite = np.isfinite(observations)
            if not finite.all():
                row = int(np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))[0])
                at = tuple(int(i) for i in np.argwhere(~finite[row])[0])
                raise InvalidInput(
                    f"observation {row} holds {observations[row][at]} at {_text(at)}, "
                    "expected finite numbers"
                )
        if self.n is not None:
            numbers = observations.astype(np.int64)
            outside = (numbers < 0) | (numbers >= self.n)
            if outside.any():
                raise InvalidInput(
                    f"observation {int(np.argwhere(outside)[0][0])} is {numbers[outside][0]}, "
                    f"expected a whole number from 0 to {self.n - 1}"
                )


class PolicySpec(BaseModel):
    """Spaces of a policy, the meaning of its output, and the environment it is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    observation: ObservationSpace
    actions: Annotated[int, Field(ge=1)]
    action_names: tuple[str, ...] = ()
    distribution: Distribution

    def check_masks(self, masks: npt.NDArray[np.bool_]) -> None:
        """Refuse masks `(n, actions)` of another width, or a row that allows nothing.

        Raises:
            InvalidInput: with what was expected and the first row that does not fit.
        """
        if masks.shape[1:] != (self.actions,):
            raise InvalidInput(
                f"action mask has {masks.shape[-1]} flags, expected one for each of "
                f"{self.actions} actions"
            )
        allowed = masks.any(axis=1)
        if not allowed.all():
            row = int(np.flatnonzero(~allowed)[0])
            raise InvalidInput(f"action mask {row} allows no action, expected at least one true")


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(length) for length in shape) + "]"
