"""What a shard's scripts answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import redis

from services.common.replay.flight import Flight

APPENDED, DUPLICATE, GAP, MISSING, WAIT = range(5)

Numbers = npt.NDArray[np.int64]


class Appended(NamedTuple):
    """What became of a chunk.

    status: APPENDED; DUPLICATE: it was appended before; GAP: the chunks from `at` on are
        missing; MISSING: the replay is not there; WAIT: the limits say so.
    at: a sequence number: this chunk's, or the first missing one.
    head: rows ever appended to the shard.
    wait_ms: until trying again makes sense.
    ahead: samples that learners must draw before this chunk fits.
    epoch: see `Tail`; only where APPENDED.
    """

    status: int
    at: int
    head: int
    wait_ms: int = 0
    ahead: int = 0
    epoch: int = 0


class Tail(NamedTuple):
    """The newest rows, and what a reader must know of them.

    head: rows ever appended to the shard.
    first: the number of the first row in `data`.
    data: packed rows.
    epoch: changes when Redis was restarted, a replica took over, or the replay was made anew.
    previous_epoch: the one before it. For who had that one, rows numbered below `epoch_head`
        are what they were; those from there on may have been lost, and others have come there.
        For who had yet another, all rows may be others.
    epoch_head: the head when this epoch began.
    inserted, sampled: step rows ever appended and rows ever sampled, as the limits count them.
    """

    head: int
    first: int
    data: bytes
    epoch: int
    previous_epoch: int
    epoch_head: int
    inserted: int
    sampled: int


class Sampled(NamedTuple):
    """Rows by number.

    head: rows ever appended to the shard.
    data: packed rows, before + 1 + after for each number; zeros where they are not there.
    missing: positions among the numbers of those that are not there, ascending.
    """

    head: int
    data: bytes
    missing: Numbers


class SavedPriorities(NamedTuple):
    """What a sampler saved: priorities (capacity,) by slot, 0 where none was."""

    head: int
    maximum: float
    priorities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Asking:
    """Rows that were asked for ahead.

    read: makes them of the script's answer.
    ask_again: in the usual way, where there was no answer, or an error.
    """

    flight: Flight | None
    read: Callable[[Any], Sampled]
    ask_again: Callable[[], Sampled]

    def land(self) -> Sampled:
        """The rows, once; errors are those of `ReplayShard.sample`."""
        if self.flight is not None:
            try:
                answer = self.flight.land()
            except redis.RedisError:  # such as that the script is not known, or that keys moved
                pass
            else:
                return self.read(answer)
        return self.ask_again()

    def drop(self) -> None:
        """Nobody wants them."""
        if self.flight is not None:
            self.flight.drop()
