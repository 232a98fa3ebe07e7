"""What this process appended itself, and so need not read back."""

from __future__ import annotations

from services.common.replay.answers import APPENDED, Appended
from services.common.replay.schema import ReplaySchema, Rows

MOST_BYTES = 16 << 20


class Echo:
    """Consecutive rows of a shard, acknowledged by Redis and not yet taken.

    Chunks that others' came between are left to be read from Redis, as are those of which it is
    not known where they lie, and the older ones when there are more than 16 MiB.
    """

    def __init__(self, schema: ReplaySchema) -> None:
        self._schema = schema
        self.forget()

    def forget(self) -> None:
        """Nothing is held."""
        self._chunks: list[bytes] = []
        self._bytes = self._first = self._head = self._epoch = 0

    def hear(self, answer: Appended, data: bytes) -> None:
        """A chunk was acknowledged."""
        first = answer.head - len(data) // self._schema.row_bytes
        if answer.status != APPENDED or len(data) > MOST_BYTES:
            self.forget()
            return
        follows = (first, answer.epoch) == (self._head, self._epoch)
        if not follows or self._bytes + len(data) > MOST_BYTES:
            self.forget()
            self._first, self._epoch = first, answer.epoch
        self._chunks.append(data)
        self._bytes += len(data)
        self._head = answer.head

    def take(self, head: int, epoch: int | None) -> Rows | None:
        """The rows from number `head` of that epoch on; None if not here. Then none are held."""
        rows = None
        if self._chunks and (self._first, self._epoch) == (head, epoch):
            rows = self._schema.unpack(b"".join(self._chunks))
        self.forget()
        return rows
