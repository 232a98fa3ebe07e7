"""A shard as seen from outside."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.replay.limiter import Limits

_ACTIVE_S = 60.0
_RATE_OVER_S = 10.0


@dataclass(frozen=True)
class ShardStats:
    """A shard as seen from outside.

    rows: in the ring.
    head: ever appended.
    inserted, sampled: step rows ever appended, and rows ever sampled from it.
    waits: appends that the limits told to wait.
    producers: how many appended within the last minute.
    row_bytes: of a packed row.
    bytes: of Redis's memory.
    oldest_age_s: since the oldest rows were appended, to a 64th of the ring; None when empty.
    rows_per_s: appended over the last 10 s or more.
    samples_per_s: as the limits reckon with, 0 when none were drawn for a minute.
    behind: rows that the learner which reported samples last has not taken notice of; None
        before the first did.
    epoch_head: the head when Redis was last seen to have come back; 0 if it never was.
    limits: in force.
    """

    rows: int
    head: int
    inserted: int
    sampled: int
    waits: int
    producers: int
    row_bytes: int
    bytes: int
    oldest_age_s: float | None
    rows_per_s: float
    samples_per_s: float
    behind: int | None
    epoch_head: int
    limits: Limits | None


def pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    """A hash from how Redis lists it: field, value, field, value …"""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def stats_of(
    fields: dict[bytes, bytes],
    times: dict[bytes, bytes],
    memory: int,
    now_ms: int,
    capacity: int,
    row_bytes: int,
) -> ShardStats:
    """Make them of the hashes `meta` and `times`; see `scripts`."""
    meta = {k.decode(): v for k, v in fields.items()}
    head = int(meta["head"])
    began = _began(head, capacity, {int(k): int(v) for k, v in times.items()})
    chunks = [value for key, value in meta.items() if key.startswith("producer:")]
    active = [c for c in chunks if now_ms - int(c.split()[1]) < 1000 * _ACTIVE_S]
    sampling = now_ms - int(meta.get("sample_ms", 0)) < 1000 * _ACTIVE_S
    return ShardStats(
        rows=min(head, capacity),
        head=head,
        inserted=int(meta["inserted"]),
        sampled=int(meta["sampled"]),
        waits=int(meta["waits"]),
        producers=len(active),
        row_bytes=row_bytes,
        bytes=memory,
        oldest_age_s=(now_ms - began[0][1]) / 1000 if began else None,
        rows_per_s=_rate(head, began, now_ms),
        samples_per_s=float(meta.get("sample_rate", 0)) if sampling else 0.0,
        behind=max(0, head - int(meta["read_to"])) if "read_to" in meta else None,
        epoch_head=int(meta["epoch_head"]),
        limits=_limits(meta),
    )


def _began(head: int, capacity: int, times: dict[int, int]) -> list[tuple[int, int]]:
    """Row numbers, oldest first, and when each was appended in ms; see `scripts.APPEND`."""
    if not head:
        return []
    part_rows = -(-capacity // 64)
    oldest = max(0, head - capacity) // part_rows
    newest = (head - 1) // part_rows
    return [
        (part * part_rows, times[part % 65])
        for part in range(oldest, newest + 1)
        if part % 65 in times
    ]


def _rate(head: int, began: list[tuple[int, int]], now_ms: int) -> float:
    if not began:
        return 0.0
    before = [b for b in began if now_ms - b[1] >= 1000 * _RATE_OVER_S]
    row, ms = before[-1] if before else began[0]
    return 1000 * (head - row) / max(1, now_ms - ms)


def _limits(meta: dict[str, bytes]) -> Limits | None:
    if "samples_per_insert" not in meta:
        return None
    return Limits(
        float(meta["samples_per_insert"]), float(meta["error_buffer"]), int(meta["min_size"])
    )
