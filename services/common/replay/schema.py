"""How a row is packed into bytes. The schema is stored with the data.

Rows lie in fragments: consecutive rows of one episode, [lead rows] step rows, closing row.

    STEP     the state acted in, the action, and what came of it
    CLOSING  the state reached by the row before it; ends a fragment, whether the episode ended
             there or only the chunk did
    LEAD     a state before the fragment's first step, for stacks of frames that reach back

So the state that a step reached is that of the row after it and is stored once, and a stack of
frames is the rows up to its own: everything that a transition needs lies side by side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidInput

Rows = npt.NDArray[np.void]
Array = npt.NDArray[Any]
Pad = Literal["first", "zero"]
Structure: TypeAlias = "dict[str, Structure] | tuple[Structure, ...] | None"
T = TypeVar("T")

SCHEMA_VERSION = 2
STEP, CLOSING, LEAD = range(3)
OBSERVATION = "observation"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ -]*(\.[A-Za-z0-9_][A-Za-z0-9_ -]*)*")
_COLUMNS = {
    "episode_id": "uint64",
    "step": "uint32",
    "reward": "float32",
    "log_probability": "float32",
    "policy_version": "int32",
    "terminated": "bool",
    "truncated": "bool",
    "kind": "uint8",
}


@dataclass(frozen=True)
class Field:
    """One column: its name, numpy element type, and shape within a row.

    stack: when above 1, a sample of it is the newest `stack` rows' values, oldest first, so
        (stack, *shape); `shape` is that of one.
    pad: what stands for rows before an episode's start: its first value again, or zeros.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    stack: int = 1
    pad: Pad = "first"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInput(f"replay field name {self.name!r} must match {_NAME.pattern}")
        try:
            numeric = np.dtype(self.dtype).kind in "biuf"
        except TypeError:
            numeric = False
        if not numeric:
            raise InvalidInput(f"replay field {self.name} has no numeric type: {self.dtype!r}")
        if self.stack < 1 or self.pad not in ("first", "zero"):
            raise InvalidInput(
                f"replay field {self.name} has stack {self.stack} and pad {self.pad!r}, expected "
                "a stack of at least 1, padded with 'first' or 'zero'"
            )


@dataclass(frozen=True)
class ReplaySchema:
    """The columns of a replay.

    state: what a state is made of: the observation's leaves in the structure's order, then
        extras such as an action mask or a recurrent network's state.
    action: a number or an array.
    structure: of the observation: None for one array, the field "observation"; a dict or a
        tuple, also nested, for gymnasium's Dict and Tuple, with fields such as
        "observation.camera" and "observation.0".

    Raises:
        InvalidInput: when names clash or the leaves are not those of the structure.
    """

    state: tuple[Field, ...]
    action: Field
    structure: Structure = None

    def __post_init__(self) -> None:
        names = [*(f.name for f in self.state), self.action.name]
        leaves = list(leaf_names(self.structure))
        if names[: len(leaves)] != leaves or not leaves:
            raise InvalidInput(f"replay state begins with {names}, expected the leaves {leaves}")
        if self.action != Field("action", self.action.dtype, self.action.shape):
            raise InvalidInput("the replay's action is a field named 'action' without a stack")
        if len({*names, *_COLUMNS}) < len(names) + len(_COLUMNS):
            raise InvalidInput(f"replay fields {names} repeat a name or take one of {[*_COLUMNS]}")

    @classmethod
    def transitions(
        cls,
        observation_shape: tuple[int, ...],
        dtype: str,
        stack: int = 1,
        extras: tuple[Field, ...] = (),
        action: Field | None = None,
    ) -> ReplaySchema:
        """One-step transitions of an environment that observes one array.

        There is no `done`: learners bootstrap through `truncated`, never through `terminated`.

        Args:
            observation_shape: of one frame when `stack` is above 1.
            extras: of the state, such as an action mask.
            action: None: the number of a discrete action.
        """
        observation = Field(OBSERVATION, dtype, observation_shape, stack)
        return cls((observation, *extras), action or Field("action", "int32"))

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """A row as a structured numpy type: little-endian, aligned, wide elements first.

        Columns are aligned and rows a multiple of the widest element, so that torch takes
        columns as they lie.
        """
        columns = [(f.name, np.dtype(f.dtype), f.shape) for f in (*self.state, self.action)]
        columns += [(name, np.dtype(kind), ()) for name, kind in _COLUMNS.items()]
        columns.sort(key=lambda column: -column[1].itemsize)  # stable
        little = [(name, kind.newbyteorder("<"), shape) for name, kind, shape in columns]
        return np.dtype(little, align=True)

    @property
    def row_bytes(self) -> int:
        """Bytes of a packed row."""
        return self.dtype.itemsize

    @cached_property
    def history(self) -> int:
        """How many rows before its own a state reaches back to."""
        return max(f.stack for f in self.state) - 1

    @cached_property
    def leaves(self) -> tuple[Field, ...]:
        """The fields of the observation."""
        return self.state[: sum(1 for _ in leaf_names(self.structure))]

    @cached_property
    def extras(self) -> tuple[Field, ...]:
        """The fields of the state beside the observation."""
        return self.state[len(self.leaves) :]

    def observation(self, column: Callable[[str], T]) -> Any:
        """An observation of this structure, its leaves by field name from `column`."""
        return _nest(self.structure, OBSERVATION, column)

    def set_observation(self, rows: Rows, observation: Any) -> None:
        """Write observations `(n, …)`, nested as the structure, into rows `(n,)`.

        A field that is a stack takes stacks as well as single frames; only the newest frame of
        a stack is kept.
        """
        for field, (name, value) in zip(
            self.leaves, _leaves(self.structure, OBSERVATION, observation), strict=True
        ):
            array = np.asarray(value)
            stacked = field.stack > 1 and array.ndim == len(field.shape) + 2
            rows[name] = array[:, -1] if stacked else array

    def empty(self, count: int) -> Rows:
        """Rows of zeros, shape `(count,)`: steps, until `kind` says otherwise."""
        return np.zeros(count, dtype=self.dtype)

    def pack(self, rows: Rows) -> bytes:
        """Rows as bytes.

        Raises:
            InvalidInput: when the rows are of another schema.
        """
        if rows.dtype != self.dtype:
            raise InvalidInput(f"rows are {rows.dtype}, expected {self.dtype}")
        return rows.tobytes()

    def unpack(self, data: bytes) -> Rows:
        """Rows that `pack` made, shape `(n,)`, read-only."""
        return np.frombuffer(data, dtype=self.dtype)

    def to_json(self) -> str:
        """The schema as it is stored beside the data."""
        content = {
            "version": SCHEMA_VERSION,
            "state": [_field_to_json(field) for field in self.state],
            "action": _field_to_json(self.action),
            "structure": self.structure,
        }
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> ReplaySchema:
        """The schema that `to_json` wrote.

        Raises:
            InvalidInput: when it is of a version that this code does not read.
        """
        stored: dict[str, Any] = json.loads(text)
        if stored.get("version") != SCHEMA_VERSION:
            raise InvalidInput(
                f"the replay has schema version {stored.get('version')}, expected {SCHEMA_VERSION}"
            )
        return cls(
            tuple(_field_from_json(field) for field in stored["state"]),
            _field_from_json(stored["action"]),
            _tuples(stored["structure"]),
        )


def leaf_names(structure: Structure, prefix: str = OBSERVATION) -> Iterator[str]:
    """The field names of an observation's leaves, in order."""
    if structure is None:
        yield prefix
        return
    for key, part in _parts(structure):
        yield from leaf_names(part, f"{prefix}.{key}")


def _nest(structure: Structure, prefix: str, column: Callable[[str], T]) -> Any:
    match structure:
        case None:
            return column(prefix)
        case dict():
            return {k: _nest(part, f"{prefix}.{k}", column) for k, part in structure.items()}
        case tuple():
            parts = enumerate(structure)
            return tuple(_nest(part, f"{prefix}.{i}", column) for i, part in parts)


def _leaves(structure: Structure, prefix: str, observation: Any) -> Iterator[tuple[str, Any]]:
    if structure is None:
        yield prefix, observation
        return
    for key, part in _parts(structure):
        yield from _leaves(part, f"{prefix}.{key}", observation[key])


def _parts(
    structure: dict[str, Structure] | tuple[Structure, ...],
) -> Iterator[tuple[Any, Structure]]:
    yield from structure.items() if isinstance(structure, dict) else enumerate(structure)


def _tuples(structure: Any) -> Structure:
    match structure:
        case dict():
            return {key: _tuples(part) for key, part in structure.items()}
        case list():
            return tuple(_tuples(part) for part in structure)
    return None


def _field_to_json(field: Field) -> list[Any]:
    return [field.name, field.dtype, field.shape, field.stack, field.pad]


def _field_from_json(stored: list[Any]) -> Field:
    name, dtype, shape, stack, pad = stored
    return Field(name, dtype, tuple(shape), stack, pad)
