"""Decisions that wait in Redis for what came of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from services.common.outcomes import names, scripts
from services.common.replay.connection import Client, explained

_OUTCOME = struct.Struct("<f??")
BYTES_BESIDE_ROWS = 600  # of a decision: fields of a hash, an entry of a sorted set


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision to be kept.

    id: 16 hexadecimal digits that no other decision has; below 2^63.
    previous: the id of the decision that led here; "" when none did.
    row: packed, as `RowMaker` makes it.
    """

    id: str
    previous: str
    row: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a decision.

    reached: a packed row with the state it led to; None: that of the decision that names this
        one as previous, or, where the episode terminated, of no matter.
    """

    id: str
    reward: float
    terminated: bool
    truncated: bool
    reached: bytes | None = None


class Reported(IntEnum):
    """What became of an outcome."""

    KEPT = 0
    DUPLICATE = 1
    UNKNOWN = 2


class Came(NamedTuple):
    """An outcome, unpacked."""

    reward: float
    terminated: bool
    truncated: bool


def unpack_outcome(data: bytes) -> Came:
    """What `WaitingDecisions.report` packed."""
    return Came(*_OUTCOME.unpack(data))


class WaitingDecisions:
    """The decisions of one policy.

    Args:
        client: from `connect`.
        wait_s: for how long a decision is kept.
        max_bytes: of Redis's memory, about, for decisions, and as much for what is joined and
            not yet in the replay; beyond it the oldest are forgotten.
        row_bytes: of a packed row.
    """

    def __init__(
        self, client: Client, policy: str, *, wait_s: float, max_bytes: int, row_bytes: int
    ) -> None:
        self._client, self._policy = client, policy
        self._keys = names.keys(policy)
        self._wait_ms = round(wait_s * 1000)
        self.most = max(1, max_bytes // (2 * row_bytes + BYTES_BESIDE_ROWS))

    def record(self, decisions: Sequence[Decided]) -> int:
        """Keep decisions, and forget those whose time is over, which it does without any too.

        Returns:
            How many were forgotten that no outcome, or no next observation, had come for.

        Raises:
            ReplayUnavailable: when Redis does not answer.
            StorageFull: when Redis has no room.
        """
        parts = [part for one in decisions for part in (one.id, one.previous, one.row)]
        with explained(f"keeping decisions of {self._policy}"):
            lost = scripts.RECORD(
                self._client, self._keys, self._wait_ms, self.most, self.most, *parts
            )
        return int(lost)

    def report(self, outcomes: Sequence[Outcome]) -> list[Reported]:
        """Keep outcomes; what became of each.

        Raises:
            ReplayUnavailable: when Redis does not answer; reporting again is safe.
            StorageFull: when Redis has no room.
        """
        parts = [
            part
            for one in outcomes
            for part in (
                one.id,
                _OUTCOME.pack(one.reward, one.terminated, one.truncated),
                int(one.terminated or one.truncated),
                one.reached or b"",
            )
        ]
        with explained(f"keeping outcomes of {self._policy}"):
            answers = scripts.REPORT(self._client, self._keys, self.most, *parts)
        return [Reported(answer) for answer in answers]
