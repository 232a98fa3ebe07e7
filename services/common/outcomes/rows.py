"""Decisions as rows of the replay, and joined transitions as its fragments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.outcomes.waiting import unpack_outcome
from services.common.replay.fragments import assemble
from services.common.replay.policy_schema import MASK, replay_schema
from services.common.replay.schema import ReplaySchema, Rows
from services.common.spec import DictSpace, PolicySpec

Observations = npt.NDArray[Any]
Masks = npt.NDArray[np.bool_]


class RowMaker:
    """Makes packed rows of what a policy saw and did."""

    def __init__(self, spec: PolicySpec) -> None:
        self.schema = replay_schema(spec, 1)
        self._masked = spec.masked
        space = spec.observation
        self._parts = tuple(space.parts) if isinstance(space, DictSpace) else None

    def decided(
        self,
        observation: Observations,
        mask: Masks | None,
        action: Any,
        log_probability: float,
        version: int,
    ) -> bytes:
        """A decision, without what came of it.

        Args:
            observation: (1, *shape); mask: (1, actions), None allows all.
            action: as the policy's action space has it.
            log_probability: with which the action was taken.
            version: that took it.
        """
        row = self._state(observation, mask)
        row["action"], row["log_probability"], row["policy_version"] = (
            action,
            log_probability,
            version,
        )
        return row.tobytes()

    def reached(self, observation: Observations, mask: Masks | None) -> bytes:
        """A state that was reached; arguments as of `decided`."""
        return self._state(observation, mask).tobytes()

    def _state(self, observation: Observations, mask: Masks | None) -> Rows:
        row = self.schema.empty(1)
        if self._parts is None:
            self.schema.set_observation(row, observation)
        else:
            self.schema.set_observation(row, {key: observation[key] for key in self._parts})
        if self._masked:
            row[MASK] = True if mask is None else mask
        return row


@dataclass(frozen=True, slots=True)
class Joined:
    """A transition as the scripts join it; see there."""

    row: bytes
    following: bytes
    out: bytes
    at: bytes


def fragments(schema: ReplaySchema, transitions: Sequence[Joined]) -> Rows:
    """Joined transitions as whole fragments, consecutive ones of an episode in one.

    Those whose rows are of another schema are left out.
    """
    size = schema.row_bytes
    fitting = [t for t in transitions if len(t.row) == size == len(t.following)]
    rows = schema.unpack(b"".join(t.row for t in fitting)).copy()
    reached = schema.unpack(b"".join(t.following for t in fitting))
    for name, column in zip(("reward", "terminated", "truncated"), _outcomes(fitting), strict=True):
        rows[name] = column
    rows["step"], rows["episode_id"] = _places(fitting)
    order = np.lexsort((rows["step"], rows["episode_id"]))
    lane = np.zeros(len(rows), dtype=np.int64)
    return assemble(schema, rows[order], reached[order], lane)


def _outcomes(transitions: Sequence[Joined]) -> list[npt.NDArray[Any]]:
    came = [unpack_outcome(t.out) for t in transitions]
    return [np.array([one[i] for one in came]) for i in range(3)]


def _places(transitions: Sequence[Joined]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Steps and episodes."""
    parts = [t.at.split() for t in transitions]
    steps = np.array([int(step) for step, *_ in parts], dtype=np.uint32)
    return steps, np.array([int(episode, 16) for _, episode, *_ in parts], dtype=np.uint64)
