"""A replay in this process's memory alone, lost with it."""

from __future__ import annotations

from pathlib import Path

from services.common.errors import InvalidInput
from services.common.replay.local import LocalReplay, Sampling
from services.common.replay.ring import Ring
from services.common.replay.schema import ReplaySchema, Rows


class MemoryReplay(LocalReplay):
    """What `MirrorReplay` is, without Redis. Not for several threads.

    Args:
        capacity: rows of any kind.
        folder: where rows are mapped into memory instead of taking memory.
    """

    def __init__(
        self,
        schema: ReplaySchema,
        capacity: int,
        sampling: Sampling,
        *,
        name: str = "in memory",
        folder: Path | None = None,
    ) -> None:
        path = None if folder is None else folder / "rows"
        super().__init__(name, schema, [Ring(schema, capacity, path)], sampling)
        self._ahead: Rows | None = None

    def append(self, rows: Rows, timeout_s: float | None = None) -> int:
        """Take in whole fragments, shape `(n,)`; returns the head. Never waits.

        Raises:
            InvalidInput: when the rows are of another schema.
        """
        if rows.dtype != self.schema.dtype:
            raise InvalidInput(f"rows are {rows.dtype}, expected {self.schema.dtype}")
        self._write(0, self._rings[0].head, rows)
        return self.head

    def append_ahead(self, rows: Rows, timeout_s: float | None = None) -> None:
        """As with a mirror, rows can be sampled after the next call, or after `sync`."""
        self.sync()
        self._ahead = rows

    def sync(self) -> int:
        """Take in what was appended ahead; returns how many rows."""
        rows, self._ahead = self._ahead, None
        if rows is None:
            return 0
        self.append(rows)
        return len(rows)

    def checkpoint(self) -> None:
        """Nothing outlives the process."""

    def close(self) -> None:
        """Nothing is open."""
