"""One ring of a replay in Redis, and the scripts bound to its keys."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import redis
from redis.exceptions import NoPermissionError

from services.common.errors import InvalidInput, ReplayDataLost, ReplayUnavailable
from services.common.replay import keys, scripts
from services.common.replay.answers import Appended, Asking, Numbers, Sampled, SavedPriorities, Tail
from services.common.replay.connection import Client, explained
from services.common.replay.flight import Flight, server_of
from services.common.replay.limiter import Limits
from services.common.replay.schema import STEP, ReplaySchema
from services.common.replay.shard_stats import ShardStats, pairs, stats_of

BLOCK_BYTES = 4 << 20
TRIP_BYTES = 64 << 20
PRIORITY_BLOCK = 1 << 16
REMEMBERED_S = 24 * 3600
_CUT, _CUT_ANOTHER, _CUT_SHORT, _CUT_OVERWRITTEN = range(4)
_DURABLE_WITHIN_MS = 5000
_MSGPACK_UINT64 = np.dtype([("type", "u1"), ("value", ">u8")])


class ReplayShard:
    """A ring of `capacity` rows. Made by `ReplayStore`, which opens it. Not for several threads.

    Row number n is the n-th ever appended, from 0; it lies in slot n mod capacity.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        tag: str,
        schema: ReplaySchema,
        capacity: int,
        layout: tuple[int, int],
        limits: Limits | None,
    ) -> None:
        """layout: rows in all shards, and how many shards."""
        self.name, self.schema, self.capacity = name, schema, capacity
        self._client, self._layout, self._limits = client, layout, limits
        self.prefix = keys.prefix(tag)
        self._meta, self._readers, self._times = (
            f"{self.prefix}{part}" for part in ("meta", "readers", "times")
        )
        columns = schema.dtype.fields
        assert columns is not None
        self._kinds = slice(columns["kind"][1], None, schema.row_bytes)
        self.rows_per_block = max(1, BLOCK_BYTES // schema.row_bytes)
        self._id = b""
        self._reader, self._sampled = uuid.uuid4().hex, 0

    def open(self) -> int:
        """Create the shard if it is not there; returns its head.

        Raises:
            InvalidInput: when it is there with another schema, capacity or number of shards.
            ReplayUnavailable: when Redis does not answer.
        """
        bounds = self._limits and (
            repr(self._limits.samples_per_insert),
            repr(self._limits.error_buffer),
            self._limits.min_size,
        )
        rows, shards = self._layout
        with explained(f"opening replay {self.name}"):
            self._id, stored, stored_rows, stored_shards, head = scripts.OPEN(
                self._client,
                [self._meta, self._readers],
                *(self.schema.to_json(), self.capacity, self.rows_per_block),
                *(self.schema.row_bytes, rows, shards),
                *(bounds or ("", "", "")),
                REMEMBERED_S,
            )
        self._compare(stored, stored_rows, stored_shards)
        return int(head)

    def _compare(self, stored: bytes, stored_rows: bytes | None, stored_shards: bytes) -> None:
        schema = ReplaySchema.from_json(stored.decode())
        if schema != self.schema:
            raise InvalidInput(
                f"replay {self.name} holds {schema.dtype}, asked for {self.schema.dtype}; "
                "use another name or remove it"
            )
        rows, shards = self._layout
        there = int(stored_rows or 0), int(stored_shards or 0)
        if there != self._layout:
            raise InvalidInput(
                f"replay {self.name} has a capacity of {there[0]} rows in {there[1]} shards, "
                f"asked for {rows} in {shards}; use another name or remove it"
            )

    def append(self, producer: str, sequence: int, data: bytes) -> Appended:
        """Append packed rows once.

        Args:
            producer: whoever numbers its chunks.
            sequence: the chunk's number, from 1, without gaps.

        Raises:
            ReplayUnavailable: when Redis does not answer; the rows may or may not be there,
                and sending them again with the same sequence number is safe.
            StorageFull: when Redis has no room.
        """
        with explained(f"appending to replay {self.name}"):
            answer = scripts.APPEND(
                self._client, [self._meta], *self._chunk(producer, sequence, data)
            )
        return Appended(*answer)

    def begin_append(self, producer: str, sequence: int, data: bytes) -> Flight | None:
        """Send a chunk as `append` does; None when it could not be sent.

        Its answer has the fields of `Appended`.
        """
        return self._begin(scripts.APPEND, *self._chunk(producer, sequence, data))

    def _chunk(self, producer: str, sequence: int, data: bytes) -> tuple[scripts.Argument, ...]:
        return self._id, producer, sequence, data, data[self._kinds].count(STEP)

    def tail(self, first: int, most: int, sampled: int = 0) -> Tail:
        """Rows from number `first` on, `most` at once, or fewer where they are of many MiB.

        Args:
            sampled: how many were sampled here since the last call that was answered. The same
                may be passed again when a call failed: it counts once.

        Raises:
            ReplayUnavailable: when Redis does not answer.
            ReplayDataLost: when the replay is gone from Redis.
        """
        most = min(most, max(1, TRIP_BYTES // self.schema.row_bytes))
        ever = self._sampled + sampled
        with explained(f"reading replay {self.name}"):
            answer = scripts.TAIL(
                self._client,
                [self._meta, self._readers],
                *(first, most, self._reader, sampled, ever),
            )
        self._sampled = ever
        return Tail(*self._there(answer))

    def sample(self, numbers: Numbers, before: int = 0, after: int = 1) -> Sampled:
        """Rows by number with those around them, in one round trip.

        Args:
            numbers: (B,) row numbers.
            before, after: how many rows more on either side.

        Raises:
            ReplayUnavailable: when Redis does not answer.
            ReplayDataLost: when the replay is gone from Redis.
        """
        with explained(f"sampling replay {self.name}"):
            answer = scripts.SAMPLE(self._client, [self._meta], _msgpack(numbers), before, after)
        return self._sampled_rows(answer)

    def begin_sample(self, numbers: Numbers, before: int = 0, after: int = 1) -> Asking:
        """Ask as `sample` does, and let the answer be fetched later."""
        flight = self._begin(scripts.SAMPLE, _msgpack(numbers), before, after)
        return Asking(flight, self._sampled_rows, lambda: self.sample(numbers, before, after))

    @property
    def made_at(self) -> int:
        """When it was made, in microseconds: which one of its name it is."""
        return int(self._id)

    def cut_back(self, made_at: int, head: int, inserted: int, sampled: int, needed: int) -> None:
        """Forget the rows from number `head` on, and what was counted since.

        Args:
            made_at: of the shard that is meant.
            inserted, sampled: the counts at that head; see `Tail`.
            needed: how many rows before `head` must still be there.

        Raises:
            ReplayUnavailable: when Redis does not answer.
            ReplayDataLost: when it is another shard now, or rows that must be there are not.
        """
        with explained(f"cutting replay {self.name} back"):
            status, rows = scripts.CUT_BACK(
                self._client, [self._meta], *(made_at, head, inserted, sampled, needed)
            )
        if status == _CUT:
            return
        reasons = {
            _CUT_ANOTHER: "it was removed, or lost",
            _CUT_SHORT: f"only {rows} are there",
            _CUT_OVERWRITTEN: f"those before row {rows} were overwritten",
        }
        raise ReplayDataLost(
            f"replay {self.name} cannot go back to its first {head} rows: {reasons[status]}"
        )

    def make_durable(self, head: int) -> None:
        """Return once the rows before number `head` are on Redis's disk, if it keeps them there.

        Raises:
            ReplayUnavailable: when Redis does not answer, or its disk does not follow.
        """
        with explained(f"making replay {self.name} durable"):
            # A write on the same connection: it is for that one's own that Redis waits.
            pipe = server_of(self._client, self._meta).pipeline(transaction=False)
            pipe.hset(self._meta, "durable_head", head)
            pipe.execute_command("WAITAOF", 1, 0, _DURABLE_WITHIN_MS)  # type: ignore[no-untyped-call]
            _, answer = pipe.execute(raise_on_error=False)
            if isinstance(answer, NoPermissionError):
                raise answer
        if isinstance(answer, redis.ResponseError):
            return  # it has no append-only file, or is too old to tell
        if not answer[0]:
            raise ReplayUnavailable(f"replay {self.name}: the disk of Redis does not follow")

    def _begin(self, script: scripts.Script, *args: scripts.Argument) -> Flight | None:
        try:
            return Flight(self._client, script, [self._meta], *args)
        except redis.RedisError:
            return None

    def _sampled_rows(self, answer: Any) -> Sampled:
        head, missing, data = self._there(answer)
        return Sampled(head, data, np.array(missing, dtype=np.int64))

    def save_priorities(
        self,
        sampler: str,
        head: int,
        maximum: float,
        blocks: Sequence[tuple[int, npt.NDArray[np.float32]]],
    ) -> None:
        """Keep a sampler's priorities beside the rows; all of it or nothing.

        Args:
            head: up to which row numbers they are known.
            maximum: what new rows get.
            blocks: first slot, a multiple of PRIORITY_BLOCK, and the priorities of the block's
                slots; those of other blocks stay as they were saved.

        Raises:
            ReplayUnavailable: when Redis does not answer.
            ReplayDataLost: when the replay is gone from Redis.
        """
        pairs = [part for slot, values in blocks for part in (slot, values.astype("<f4").tobytes())]
        with explained(f"saving priorities of replay {self.name}"):
            saved = scripts.SAVE_PRIORITIES(
                self._client,
                [self._meta, self._priorities(sampler)],
                *(self._id, head, repr(float(maximum)), *pairs),
            )
        if not saved:
            raise self._gone()

    def load_priorities(self, sampler: str) -> SavedPriorities | None:
        """What `save_priorities` kept; None when there is nothing.

        Raises:
            ReplayUnavailable: when Redis does not answer.
        """
        with explained(f"loading priorities of replay {self.name}"):
            saved: Any = self._client.hgetall(self._priorities(sampler))
        if not saved or saved.pop(b"id") != self._id:
            return None
        head, maximum = int(saved.pop(b"head")), float(saved.pop(b"maximum"))
        priorities = np.zeros(self.capacity, dtype=np.float32)
        for slot, data in saved.items():
            values = np.frombuffer(data, dtype="<f4")
            priorities[int(slot) : int(slot) + len(values)] = values
        return SavedPriorities(head, maximum, priorities)

    def stats(self) -> ShardStats:
        """The shard as seen from outside.

        Raises:
            ReplayUnavailable: when Redis does not answer.
            ReplayDataLost: when the replay is gone from Redis.
        """
        with explained(f"looking at replay {self.name}"):
            answer = scripts.STATS(self._client, [self._meta, self._times])
        fields, times, memory, now_ms = answer
        if not fields:
            raise self._gone()
        return stats_of(
            pairs(fields), pairs(times), int(memory), now_ms, self.capacity, self.schema.row_bytes
        )

    def remove(self) -> None:
        """Delete the shard and all of its rows."""
        pattern = f"{_escaped(self.prefix)}*"
        with explained(f"removing replay {self.name}"):
            found = [*self._client.scan_iter(match=pattern, count=1000)]
            self._client.unlink(self._meta, *found)

    def _priorities(self, sampler: str) -> str:
        keys.check_name(sampler)
        return f"{self.prefix}priorities:{sampler}"

    def _there(self, answer: list[Any]) -> list[Any]:
        if answer[0] < 0:
            raise self._gone()
        return answer

    def _gone(self) -> ReplayDataLost:
        return ReplayDataLost(f"replay {self.name} is no longer in Redis")


def _msgpack(numbers: Numbers) -> bytes:
    packed = np.empty(len(numbers), dtype=_MSGPACK_UINT64)
    packed["type"], packed["value"] = 0xCF, numbers
    return b"\xdd" + len(numbers).to_bytes(4, "big") + packed.tobytes()


def _escaped(prefix: str) -> str:
    return "".join(f"\\{c}" if c in "[]*?\\" else c for c in prefix)
