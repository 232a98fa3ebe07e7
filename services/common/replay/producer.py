"""Appends chunks of transitions so that each is there exactly once."""

from __future__ import annotations

import time
import uuid
from collections import deque

from services.common.errors import InvalidInput, ReplayDataLost
from services.common.replay.schema import Rows
from services.common.replay.store import APPENDED, DUPLICATE, GAP, MISSING, ReplayStore

KEPT_S = 10.0


class ReplayProducer:
    """One writer of a replay. Not for several threads.

    A chunk is one round trip and is acknowledged by the server. Its sequence number makes a
    retry harmless. Chunks of the last seconds are kept here, so that those that a crash of
    Redis took with it (with appendfsync everysec: up to two seconds) are noticed as a gap and
    sent again.
    """

    def __init__(self, store: ReplayStore) -> None:
        self._store = store
        self._id = uuid.uuid4().hex
        self._sequence = 0
        self._kept: deque[tuple[int, float, bytes]] = deque()
        self._pending: bytes | None = None

    def append(self, rows: Rows) -> int:
        """Append rows, shape `(n,)` of the store's schema; returns the replay's head.

        Call it again with the same rows after ReplayUnavailable or StorageFull: the chunk
        counts once.

        Raises:
            InvalidInput: when the rows are of another schema, or an earlier chunk is still open.
            ReplayUnavailable: when Redis does not answer.
            StorageFull: when Redis has no room.
            ReplayDataLost: when Redis lost chunks older than those kept here.
        """
        data = self._store.schema.pack(rows)
        if self._pending is None:
            self._pending = data
            self._sequence += 1
        elif self._pending != data:
            raise InvalidInput("the chunk before is not acknowledged; append that one again first")
        head = self._send(self._sequence, self._pending)
        self._keep(self._sequence, self._pending)
        self._pending = None
        return head

    def _send(self, sequence: int, data: bytes) -> int:
        while True:
            status, at, head = self._store.append(self._id, sequence, data)
            if status in (APPENDED, DUPLICATE):
                return head
            if status == MISSING:
                self._store.open()
                at = 1
            if status == GAP or at < sequence:
                self._send_again(at, sequence)

    def _send_again(self, first: int, end: int) -> None:
        missing = [(s, data) for s, _, data in self._kept if first <= s < end]
        if len(missing) < end - first:
            raise ReplayDataLost(
                f"replay {self._store.name}: Redis lost chunks {first} to {end - 1} of this "
                f"producer, which were acknowledged more than {KEPT_S:.0f} s ago; check that it "
                "runs with appendonly yes"
            )
        for sequence, data in missing:
            self._store.append(self._id, sequence, data)

    def _keep(self, sequence: int, data: bytes) -> None:
        now = time.monotonic()
        self._kept.append((sequence, now, data))
        while self._kept[0][1] < now - KEPT_S:
            self._kept.popleft()
