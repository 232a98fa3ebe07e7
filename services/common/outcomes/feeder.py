"""Appends joined transitions to the replay."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import redis

from services.common.errors import InvalidInput, NotFound, ReplayDataLost
from services.common.outcomes import names
from services.common.outcomes.rows import Joined, fragments
from services.common.replay import ReplayProducer, ReplaySchema, ReplayStore
from services.common.replay.connection import Client, explained

GROUP = "replay"
AT_ONCE = 1000
ABANDONED_S = 30.0
APPEND_S = 1.0


@dataclass(frozen=True)
class _Taken:
    ids: list[bytes]
    transitions: list[Joined]


class Feeder:
    """Moves what is joined of one policy into its replay, beside feeders elsewhere.

    What was taken and could not be appended is kept here and tried again; what another feeder
    took and has not appended for 30 s is taken over. Not for several threads.

    Args:
        client: from `connect`.
        max_bytes, max_rows: of the replay, if it is made here.
    """

    def __init__(
        self, client: Client, policy: str, schema: ReplaySchema, *, max_bytes: int, max_rows: int
    ) -> None:
        self._client, self._schema = client, schema
        self._name, self._stream = names.outcomes_replay(policy), names.keys(policy)[-1]
        self._capacity = min(max_rows, ReplayStore.capacity_for(max_bytes, schema))
        self._me = uuid.uuid4().hex
        self._producer: ReplayProducer | None = None
        self._taken: _Taken | None = None
        self._reclaim_due = 0.0

    def move(self) -> int:
        """Append what has been joined since, 1000 transitions at most; how many there were.

        Raises:
            ReplayUnavailable, StorageFull, ReplayBackpressure: call it again later.
            InvalidInput: when the replay is of another schema than the policy.
        """
        if self._taken is None:
            with explained(f"reading outcomes for replay {self._name}"):
                self._taken = self._take()
        if self._taken is None:
            return 0
        rows = fragments(self._schema, self._taken.transitions)
        if len(rows):
            self._append(rows)
        with explained(f"reading outcomes for replay {self._name}"):
            self._done(self._taken.ids)
        moved, self._taken = len(self._taken.ids), None
        return moved

    def close(self) -> None:
        """Leave what was taken and not appended to the others, at once."""
        with explained(f"leaving outcomes for replay {self._name}"):
            if self._taken is None:
                self._client.xgroup_delconsumer(self._stream, GROUP, self._me)

    def _append(self, rows: Any) -> None:
        if self._producer is None:
            self._producer = ReplayProducer(
                open_shared(self._client, self._name, self._schema, self._capacity)
            )
        try:
            self._producer.append(rows, APPEND_S)
        except ReplayDataLost:  # chunks of before; this one can still be appended
            self._producer = None
            raise

    def _take(self) -> _Taken | None:
        try:
            return self._abandoned() or self._new()
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
        self._make_group()
        return self._new()

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _new(self) -> _Taken | None:
        answer: Any = self._client.xreadgroup(GROUP, self._me, {self._stream: ">"}, count=AT_ONCE)
        if not answer:
            return None
        ((_, entries),) = answer.items() if isinstance(answer, dict) else answer
        return _taken(entries)

    def _abandoned(self) -> _Taken | None:
        if time.monotonic() < self._reclaim_due:
            return None
        self._reclaim_due = time.monotonic() + ABANDONED_S
        idle_ms = round(ABANDONED_S * 1000)
        answer: Any = self._client.xautoclaim(self._stream, GROUP, self._me, idle_ms, count=AT_ONCE)
        return _taken(answer[1])

    def _done(self, ids: list[bytes]) -> None:
        pipe = self._client.pipeline()
        pipe.xack(self._stream, GROUP, *ids)
        pipe.xdel(self._stream, *ids)
        pipe.execute()


def _taken(entries: Any) -> _Taken | None:
    kept = [(i, parts) for i, parts in entries if parts]
    if not kept:
        return None
    transitions = [Joined(p[b"row"], p[b"next"], p[b"out"], p[b"at"]) for _, p in kept]
    return _Taken([i for i, _ in kept], transitions)


def open_shared(client: Client, name: str, schema: ReplaySchema, capacity: int) -> ReplayStore:
    """A replay that several append to; whoever comes first makes it, of this capacity.

    Raises:
        InvalidInput: when it is there with another schema.
        ReplayUnavailable: when Redis does not answer.
    """
    try:
        store = ReplayStore.open_existing(client, name)
    except NotFound:
        try:
            return ReplayStore(client, name, schema, capacity)
        except InvalidInput:  # somebody has made it meanwhile
            store = ReplayStore.open_existing(client, name)
    if store.schema != schema:
        raise InvalidInput(
            f"replay {name} holds {store.schema.dtype}, but the policy's decisions are "
            f"{schema.dtype}; remove it: tutelage replay rm {name}"
        )
    return store
