"""What a policy takes and gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from services.common.action_space import ActionSpace, AxisLength, Box, Discrete, MultiDiscrete
from services.common.errors import InvalidInput

DTypeName = Literal["float32", "float64", "uint8", "int32", "int64"]
OBSERVATION, MASK, ACTION, VALUE = "observation", "action_mask", "action", "value"
PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$")]


class Distribution(StrEnum):
    """What the numbers of a policy's output mean.

    Q_VALUES: of each discrete action.
    LOGITS: of each discrete action; of a MultiDiscrete one, component after component.
    GAUSSIAN: mean and log_std of each element of a Box, in normalised units (see `Box`);
        what is drawn beyond the bounds is clipped to them.
    TANH_GAUSSIAN: the same of a number whose tanh is the action in normalised units.
    DETERMINISTIC: the action itself, in the Box's own units; there is nothing to draw.
    """

    Q_VALUES = "q_values"
    LOGITS = "logits"
    GAUSSIAN = "gaussian"
    TANH_GAUSSIAN = "tanh_gaussian"
    DETERMINISTIC = "deterministic"


_ACTS_IN: dict[Distribution, tuple[type, ...]] = {
    Distribution.Q_VALUES: (Discrete,),
    Distribution.LOGITS: (Discrete, MultiDiscrete),
    Distribution.GAUSSIAN: (Box,),
    Distribution.TANH_GAUSSIAN: (Box,),
    Distribution.DETERMINISTIC: (Box,),
}


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

    @property
    def row(self) -> np.dtype[Any]:
        """An observation as one element of an array: `np.empty(n, row)` has n of them."""
        return np.dtype((self.dtype, self.shape))

    @property
    def inputs(self) -> dict[str, ObservationSpace]:
        """A model's inputs for it, by name."""
        return {OBSERVATION: self}

    def columns(self, observations: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """What those inputs are given of observations `(n, *shape)`."""
        return {OBSERVATION: observations}

    def __str__(self) -> str:
        return f"{_text(self.shape)} of {self.dtype}"

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


class DictSpace(BaseModel):
    """Observations of several parts by name, each an array of its own.

    A batch of them is a structured array `(n,)` with a field for each part: it is cut, joined and
    counted as any other. A model has an input for each, named `observation.<part>`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: Annotated[dict[PartName, ObservationSpace], Field(min_length=1)]

    @property
    def size(self) -> int:
        """Number of elements."""
        return sum(space.size for space in self.parts.values())

    @property
    def row(self) -> np.dtype[Any]:
        """An observation as one element of an array."""
        return np.dtype([(key, s.dtype, s.shape) for key, s in self.parts.items()], align=True)

    @property
    def inputs(self) -> dict[str, ObservationSpace]:
        """A model's inputs for it, by name."""
        return {f"{OBSERVATION}.{key}": space for key, space in self.parts.items()}

    @property
    def n(self) -> None:
        """States of several parts have no number."""
        return None

    def columns(self, observations: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """What those inputs are given of observations `(n,)`."""
        return {
            f"{OBSERVATION}.{key}": np.ascontiguousarray(observations[key]) for key in self.parts
        }

    def check_parts(self, given: Mapping[str, object]) -> None:
        """Refuse parts of other names.

        Raises:
            InvalidInput: with those that were expected.
        """
        if given.keys() != self.parts.keys():
            raise InvalidInput(
                f"the observation has the parts {sorted(given)}, expected {sorted(self.parts)}"
            )

    def check(self, observations: npt.NDArray[Any]) -> None:
        """Refuse a batch `(n,)` of which a part does not fit; see ObservationSpace.

        Raises:
            InvalidInput: naming the part.
        """
        self.check_parts(dict.fromkeys(observations.dtype.names or ()))
        for key, space in self.parts.items():
            try:
                space.check(observations[key])
            except InvalidInput as error:
                raise InvalidInput(f"part {key!r}: {error}") from None

    def __str__(self) -> str:
        return ", ".join(f"{key} {space}" for key, space in self.parts.items())


class StatePart(BaseModel):
    """A part of what a recurrent network hands from one step to the next, float32.

    Before an episode's first step it is zero.

    input, output: names of the model's input that takes it and of its output that gives the next,
        both of shape `(batch, *shape)`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Annotated[str, Field(min_length=1)]
    output: Annotated[str, Field(min_length=1)]
    shape: Annotated[tuple[AxisLength, ...], Field(min_length=1)]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class PolicySpec(BaseModel):
    """Spaces of a policy, the meaning of its output, and the environment it is for.

    environment_kwargs: with which that environment is made.
    masked: the environment allows some actions in some states only, and the model takes a mask.
    state: of a recurrent policy; empty: it remembers nothing.
    valued: the model has an output `value`, `(batch,)`: the discounted sum of rewards, as the
        environment pays them, that its critic expects from an observation on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    environment_kwargs: dict[str, JsonValue] = {}
    observation: ObservationSpace | DictSpace
    action: ActionSpace
    distribution: Distribution
    masked: bool = False
    state: tuple[StatePart, ...] = ()
    valued: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_number_of_actions(cls, content: Any) -> Any:
        # How discrete actions were written down before there were others.
        if isinstance(content, dict) and "actions" in content:
            rest = {k: v for k, v in content.items() if k not in ("actions", "action_names")}
            named = {"n": content["actions"], "names": content.get("action_names", ())}
            return {**rest, "action": {"kind": "discrete", **named}}
        return content

    @model_validator(mode="after")
    def _fits(self) -> PolicySpec:
        space = self.action
        if not isinstance(space, _ACTS_IN[self.distribution]):
            raise ValueError(f"{self.distribution.value} is no output for actions in {space}")
        squashed = self.distribution == Distribution.TANH_GAUSSIAN
        if squashed and isinstance(space, Box) and not space.bounded.all():
            raise ValueError(f"tanh_gaussian needs bounds on every element, not {space}")
        if self.valued and (self.state or self.distribution == Distribution.Q_VALUES):
            raise ValueError("a critic's value is of policies without state and action values")
        if self.masked and not self.actions:
            raise ValueError(f"an action mask means nothing for actions in {space}")
        inputs = [*self.observation.inputs, MASK, *(part.input for part in self.state)]
        outputs = [*self.outputs, ACTION, *(part.output for part in self.state)]
        for names in (inputs, outputs):
            if len({*names}) < len(names):
                raise ValueError(f"the state's inputs and outputs need names of their own: {names}")
        return self

    @property
    def actions(self) -> int:
        """How many values or logits there are, and flags in a mask: n of Discrete actions, of
        MultiDiscrete ones the sum over the components, 0 of a Box."""
        return self.action.choices

    @property
    def outputs(self) -> dict[str, int]:
        """The model's outputs beside `action`: names and lengths, in the order in which they
        make up a row of parameters. Empty where the action is all there is."""
        match self.distribution:
            case Distribution.Q_VALUES | Distribution.LOGITS:
                return {self.distribution.value: self.actions}
            case Distribution.GAUSSIAN | Distribution.TANH_GAUSSIAN:
                return {"mean": self.action.size, "log_std": self.action.size}
            case Distribution.DETERMINISTIC:
                return {}

    @property
    def parameters(self) -> int:
        """Numbers in a row of parameters: all outputs, or the action where it is all there is."""
        return sum(self.outputs.values()) or self.action.size

    @property
    def state_size(self) -> int:
        """Numbers in a state: the parts' elements, one part after another; 0: it has none."""
        return sum(part.size for part in self.state)

    def check_masks(self, masks: npt.NDArray[np.bool_]) -> None:
        """Refuse masks `(n, actions)` of another width, or a row that allows nothing.

        Raises:
            InvalidInput: with what was expected and the first row that does not fit.
        """
        space = self.action
        if isinstance(space, Box):
            raise InvalidInput(f"an action mask means nothing for actions in {space}; leave it out")
        if masks.shape[1:] != (self.actions,):
            raise InvalidInput(
                f"action mask has {masks.shape[-1]} flags, expected one for each of "
                f"{self.actions} actions"
            )
        allowed = np.logical_or.reduceat(masks, space.starts, axis=1)  # (n, components)
        if not allowed.all():
            row, component = (int(i) for i in np.argwhere(~allowed)[0])
            of = f" of component {component}" if isinstance(space, MultiDiscrete) else ""
            raise InvalidInput(
                f"action mask {row} allows no action{of}, expected at least one true"
            )


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(length) for length in shape) + "]"
