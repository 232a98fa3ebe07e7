"""Appends chunks of transitions so that each is there exactly once."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable

import numpy as np
import redis

from services.common.errors import (
    InvalidInput,
    ReplayBackpressure,
    ReplayDataLost,
    ReplayUnavailable,
)
from services.common.replay.answers import APPENDED, DUPLICATE, GAP, MISSING, WAIT, Appended
from services.common.replay.flight import Flight
from services.common.replay.schema import STEP, Rows
from services.common.replay.shard import REMEMBERED_S
from services.common.replay.store import ReplayStore

KEPT_S = 10.0
ANEW_S = REMEMBERED_S / 2
KEPT_BYTES = 256 << 20
TIMEOUT_S = 300.0


class ReplayProducer:
    """One writer of a replay, to one of its shards. Not for several threads.

    A chunk is one round trip and is acknowledged by the server. Its sequence number makes a
    retry harmless. Chunks of the last seconds are kept here, so that those that a crash of
    Redis took with it are noticed as a gap and sent again; see `services.common.replay` for
    what that covers. Redis forgets who has not appended for a day, so that a chunk which nobody
    acknowledged for as long cannot be retried: ReplayDataLost. After half a day without one,
    numbers begin anew.

    Args:
        shard: which one. Default: any, so that producers spread.
        on_wait: told the seconds until the next try, whenever the limits say to wait.
        on_append: told what became of each chunk, and its packed rows, when it is acknowledged.
        kept_s, kept_bytes: how long chunks are kept after they were acknowledged, and how many
            bytes of them at most.
    """

    def __init__(
        self,
        store: ReplayStore,
        shard: int | None = None,
        *,
        on_wait: Callable[[float], None] = lambda seconds: None,
        on_append: Callable[[Appended, bytes], None] = lambda answer, data: None,
        kept_s: float = KEPT_S,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        identity = uuid.uuid4()
        self._id, self._since = identity.hex, time.monotonic()
        self.shard = identity.int % len(store.shards) if shard is None else shard
        self._store, self._shard = store, store.shards[self.shard]
        self._on_wait, self._on_append = on_wait, on_append
        self._kept_s, self._room = kept_s, kept_bytes
        self._sequence = self._longest = self._head = 0
        self._flight: Flight | None = None
        self._kept: deque[tuple[int, float, bytes]] = deque()
        self._pending: bytes | None = None

    def append(self, rows: Rows, timeout_s: float | None = None) -> int:
        """Append whole fragments, shape `(n,)` of the store's schema; returns the shard's head.

        Call it again with the same rows after ReplayUnavailable, StorageFull or
        ReplayBackpressure: the chunk counts once.

        Args:
            timeout_s: how long to wait where the limits say so. Default: 300 s.

        Raises:
            InvalidInput: when the rows are of another schema, or an earlier chunk is still open.
            InvalidConfig: when so many rows never fit within the store's limits.
            ReplayUnavailable: when Redis does not answer.
            StorageFull: when Redis has no room.
            ReplayBackpressure: when learners have not caught up in time.
            ReplayDataLost: when Redis lost chunks older than those kept here.
        """
        data = self._store.schema.pack(rows)
        if self._pending is None:
            self._begin(rows, data)
        elif self._pending != data:
            raise InvalidInput("the chunk before is not acknowledged; append that one again first")
        self.settle(timeout_s)
        return self._head

    def append_ahead(self, rows: Rows, timeout_s: float | None = None) -> None:
        """Settle the chunk before, then send this one without waiting for the answer.

        Call it again with the same rows when the chunk before could not be settled.

        Raises:
            as `append`, for the chunk before.
        """
        data = self._store.schema.pack(rows)
        self.settle(timeout_s)
        self._begin(rows, data)

    def settle(self, timeout_s: float | None = None) -> None:
        """Return once Redis has acknowledged all that was appended.

        Raises:
            as `append`; call it again then.
        """
        if self._pending is None:
            return
        deadline = time.monotonic() + (TIMEOUT_S if timeout_s is None else timeout_s)
        answer = self._send(self._sequence, self._pending, deadline, self._land())
        self._keep(self._sequence, self._pending)
        self._on_append(answer, self._pending)
        self._pending, self._head = None, answer.head

    def _begin(self, rows: Rows, data: bytes) -> None:
        """Number a chunk and send it."""
        self._check_length(rows)
        if time.monotonic() > self._since + ANEW_S:
            self._id, self._sequence = uuid.uuid4().hex, 0
            self._room += sum(len(kept) for _, _, kept in self._kept)
            self._kept.clear()
        self._since = time.monotonic()
        self._pending = data
        self._sequence += 1
        self._flight = self._shard.begin_append(self._id, self._sequence, data)

    def _land(self) -> Appended | None:
        """What was answered to the chunk that was sent last; None when it must be sent again."""
        flight, self._flight = self._flight, None
        if flight is None:
            return None
        try:
            return Appended(*flight.land())
        except redis.TimeoutError as error:  # no use in waiting as long once more
            raise ReplayUnavailable(
                f"appending to replay {self._store.name}: Redis does not answer ({error})"
            ) from error
        except redis.RedisError:
            return None

    def _check_length(self, rows: Rows) -> None:
        limits, store = self._store.limits, self._store
        if limits is not None and len(rows) > self._longest:
            steps = int(np.count_nonzero(rows["kind"] == STEP))
            limits.check(steps, 1, store.capacity, len(store.shards))
            self._longest = len(rows)

    def _send(
        self, sequence: int, data: bytes, deadline: float, answer: Appended | None = None
    ) -> Appended:
        """What became of a chunk in the end, after `answer`, if it was sent already."""
        while True:
            answer = answer or self._shard.append(self._id, sequence, data)
            if answer.status in (APPENDED, DUPLICATE):
                return answer
            if answer.status == WAIT:
                self._wait(answer, deadline)
            elif answer.status == GAP:
                self._send_again(answer.at, sequence, deadline)
            elif answer.status == MISSING:
                self._shard.open()
            answer = None

    def _send_again(self, first: int, end: int, deadline: float) -> None:
        missing = [(s, data) for s, _, data in self._kept if first <= s < end]
        if len(missing) < end - first:
            raise ReplayDataLost(
                f"replay {self._store.name}: Redis lost chunks {first} to {end - 1} of this "
                f"producer, which were acknowledged more than {self._kept_s:g} s ago, or were too "
                "many to keep; check that it runs with appendonly yes"
            )
        for sequence, data in missing:
            self._send(sequence, data, deadline)

    def _wait(self, answer: Appended, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ReplayBackpressure(
                f"replay {self._store.name}: this chunk is {answer.ahead} samples ahead of what "
                "its limits allow, and no learner drew as many in time; check that one is sampling "
                f"shard {self.shard} and reports it, or raise samples_per_insert or error_buffer"
            )
        seconds = min(answer.wait_ms / 1000, left)
        self._on_wait(seconds)
        time.sleep(seconds)

    def _keep(self, sequence: int, data: bytes) -> None:
        now = time.monotonic()
        self._kept.append((sequence, now, data))
        self._room -= len(data)
        while self._kept[0][1] < now - self._kept_s or (self._room < 0 and len(self._kept) > 1):
            self._room += len(self._kept.popleft()[2])
