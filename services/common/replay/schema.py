"""How a transition is packed into bytes. The schema is stored with the data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidInput

Rows = npt.NDArray[np.void]
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Field:
    """One column: its name, numpy element type, and shape within a row."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class ReplaySchema:
    """The columns of a replay in the order in which a row packs them, little-endian."""

    fields: tuple[Field, ...]

    @classmethod
    def transitions(cls, observation_shape: tuple[int, ...], dtype: str) -> ReplaySchema:
        """One-step transitions of a discrete-action environment.

        There is no `done`: learners bootstrap through `truncated`, never through `terminated`.
        """
        return cls(
            (
                Field("observation", dtype, observation_shape),
                Field("action", "int32"),
                Field("reward", "float32"),
                Field("terminated", "bool"),
                Field("truncated", "bool"),
                Field("next_observation", dtype, observation_shape),
                Field("episode_id", "uint64"),
                Field("step", "uint32"),
                Field("policy_version", "int32"),
                Field("log_probability", "float32"),
            )
        )

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The packed row as a structured numpy type."""
        columns = [(f.name, np.dtype(f.dtype).newbyteorder("<"), f.shape) for f in self.fields]
        return np.dtype(columns)

    def empty(self, count: int) -> Rows:
        """Rows of zeros, shape `(count,)`."""
        return np.zeros(count, dtype=self.dtype)

    def pack(self, rows: Rows) -> bytes:
        """Rows as bytes.

        Raises:
            InvalidInput: when the rows are of another schema.
        """
        if rows.dtype != self.dtype or rows.ndim != 1:
            raise InvalidInput(f"rows are {rows.dtype}, the replay's schema is {self.dtype}")
        return np.ascontiguousarray(rows).tobytes()

    def unpack(self, data: bytes) -> Rows:
        """Bytes as rows, read-only."""
        return np.frombuffer(data, dtype=self.dtype)

    def to_json(self) -> str:
        """The schema as it is stored with the data."""
        columns = [[f.name, f.dtype, list(f.shape)] for f in self.fields]
        return json.dumps({"version": SCHEMA_VERSION, "fields": columns})

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
        return cls(tuple(Field(n, d, tuple(s)) for n, d, s in stored["fields"]))
