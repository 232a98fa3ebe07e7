"""A named replay in Redis: its keys, its settings, and the scripts bound to them."""

from __future__ import annotations

import re

import redis

from services.common.errors import InvalidInput, ReplayDataLost
from services.common.replay import scripts
from services.common.replay.connection import explained
from services.common.replay.schema import ReplaySchema

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
BLOCK_BYTES = 4 << 20
APPENDED, DUPLICATE, GAP, MISSING = range(4)


class ReplayStore:
    """A ring of `capacity` packed rows. Making one creates it, or opens what is there.

    Args:
        client: from `connect`.
        name: letters, digits, ".", "_" and "-".
        schema: the columns; one that differs from the stored one is refused.
        capacity: rows kept; the oldest are overwritten. One that differs is refused.

    Raises:
        InvalidInput: when name, schema or capacity do not fit.
        ReplayUnavailable: when Redis does not answer.
    """

    def __init__(self, client: redis.Redis, name: str, schema: ReplaySchema, capacity: int) -> None:
        if not NAME.fullmatch(name):
            raise InvalidInput(f"replay name {name!r} must match {NAME.pattern}")
        if capacity < 1:
            raise InvalidInput(f"replay capacity is {capacity}, expected at least 1 row")
        self.name, self.schema, self.capacity = name, schema, capacity
        prefix = f"tutelage:replay:{{{name}}}"
        self._meta, self._producers = f"{prefix}:meta", f"{prefix}:producers"
        self._block_prefix = f"{prefix}:block:"
        self._client = client
        self._create = client.register_script(scripts.CREATE)
        self._append = client.register_script(scripts.APPEND)
        self._tail = client.register_script(scripts.TAIL)
        self.open()

    def open(self) -> int:
        """Create the replay if it is not there; returns its head.

        Raises:
            InvalidInput: when it is there with another schema or capacity.
            ReplayUnavailable: when Redis does not answer.
        """
        row_bytes = self.schema.dtype.itemsize
        per_block = max(1, BLOCK_BYTES // row_bytes)
        wanted: list[str | int] = [self.schema.to_json(), self.capacity, per_block, row_bytes]
        with explained(f"opening replay {self.name}"):
            schema, capacity, _, head = self._create(keys=[self._meta], args=wanted)
        stored = ReplaySchema.from_json(schema.decode())
        if stored != self.schema:
            raise InvalidInput(
                f"replay {self.name} holds {stored.dtype}, asked for {self.schema.dtype}; "
                "use another name or remove it"
            )
        if int(capacity) != self.capacity:
            raise InvalidInput(
                f"replay {self.name} has a capacity of {int(capacity)} rows, "
                f"asked for {self.capacity}; use another name or remove it"
            )
        return int(head)

    def append(self, producer: str, sequence: int, rows: bytes) -> tuple[int, int, int]:
        """Append packed rows once: `(status, sequence, head)` as `scripts.APPEND` has it.

        Raises:
            ReplayUnavailable: when Redis does not answer; the rows may or may not be there,
                and sending them again with the same sequence number is safe.
            StorageFull: when Redis has no room.
        """
        with explained(f"appending to replay {self.name}"):
            status, at, head = self._append(
                keys=[self._meta, self._producers],
                args=[producer, sequence, rows, self._block_prefix],
            )
        return int(status), int(at), int(head)

    def tail(self, first: int, most: int) -> tuple[int, int, bytes]:
        """Rows from `first` on, `most` at once: `(head, first row returned, packed rows)`.

        Raises:
            ReplayUnavailable: when Redis does not answer.
            ReplayDataLost: when the replay is gone from Redis.
        """
        with explained(f"reading replay {self.name}"):
            head, start, rows = self._tail(
                keys=[self._meta], args=[first, most, self._block_prefix]
            )
        if int(head) < 0:
            raise ReplayDataLost(f"replay {self.name} is no longer in Redis")
        return int(head), int(start), rows

    def remove(self) -> None:
        """Delete the replay and all of its rows."""
        with explained(f"removing replay {self.name}"):
            blocks = list(self._client.scan_iter(match=_escaped(self._block_prefix) + "*"))
            self._client.delete(self._meta, self._producers, *blocks)


def _escaped(prefix: str) -> str:
    return re.sub(r"([\[\]*?\\])", r"\\\1", prefix)
