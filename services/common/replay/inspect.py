"""Replays as seen from outside: how much is in one, and whether it is sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from services.common.replay.connection import Client, explained
from services.common.replay.limiter import Limits
from services.common.replay.schema import CLOSING, STEP, ReplaySchema, Rows
from services.common.replay.shard import PRIORITY_BLOCK
from services.common.replay.store import ReplayShard, ReplayStore
from services.common.replay.stretches import read_rows
from services.common.replay.wellformed import first_fault

ACTIVE_S = 60.0  # what ReplayShard.stats counts as active


@dataclass(frozen=True)
class Description:
    """All shards of a replay together; see `ShardStats` for what is not explained here.

    capacity, rows: of any kind; `inserted` and `sampled` are steps.
    appended: rows ever appended.
    bytes: of Redis's memory.
    behind: of the shard where it is most.
    """

    name: str
    capacity: int
    shards: int
    row_bytes: int
    rows: int
    appended: int
    inserted: int
    sampled: int
    waits: int
    producers: int
    bytes: int
    oldest_age_s: float | None
    rows_per_s: float
    samples_per_s: float
    behind: int | None
    limits: Limits | None

    @property
    def sample_ratio(self) -> float | None:
        """How often a step was sampled on average; None before there was one."""
        return self.sampled / self.inserted if self.inserted else None


@dataclass(frozen=True)
class Check:
    """What was looked at, and what is wrong with it, if anything."""

    what: str
    fault: str = ""


def describe(store: ReplayStore) -> Description:
    """What is in a replay now.

    Raises:
        ReplayUnavailable: when Redis does not answer.
        ReplayDataLost: when the replay is gone from Redis.
    """
    stats = [shard.stats() for shard in store.shards]
    ages = [one.oldest_age_s for one in stats if one.oldest_age_s is not None]
    return Description(
        name=store.name,
        capacity=store.capacity,
        shards=len(stats),
        row_bytes=store.schema.row_bytes,
        rows=sum(one.rows for one in stats),
        appended=sum(one.head for one in stats),
        inserted=sum(one.inserted for one in stats),
        sampled=sum(one.sampled for one in stats),
        waits=sum(one.waits for one in stats),
        producers=sum(one.producers for one in stats),
        bytes=sum(one.bytes for one in stats),
        oldest_age_s=max(ages, default=None),
        rows_per_s=sum(one.rows_per_s for one in stats),
        samples_per_s=sum(one.samples_per_s for one in stats),
        behind=max((one.behind for one in stats if one.behind is not None), default=None),
        limits=stats[0].limits,
    )


def verify(client: Client, store: ReplayStore) -> Iterator[Check]:
    """Check a replay shard by shard. Producers may go on appending meanwhile.

    Raises:
        ReplayUnavailable: when Redis does not answer.
    """
    for i, shard in enumerate(store.shards):
        place = f"shard {i}: " if len(store.shards) > 1 else ""
        with explained(f"verifying replay {store.name}"):
            yield from _verify_shard(client, store.schema, shard, place)


def _verify_shard(
    client: Client, schema: ReplaySchema, shard: ReplayShard, place: str
) -> Iterator[Check]:
    meta = {_text(k): _text(v) for k, v in client.hgetall(f"{shard.prefix}meta").items()}
    settings_fault = _settings_fault(shard, meta)
    yield Check(f"{place}settings", settings_fault)
    if settings_fault:  # by which all else is read
        return
    head, per_block = int(meta["head"]), shard.rows_per_block
    blocks, fault = _check_blocks(client, shard, min(head, shard.capacity), per_block)
    yield Check(f"{place}blocks: {blocks:,}, each of up to {per_block:,} rows", fault)
    if not fault:
        yield _check_rows(schema, shard, place)
    for key in sorted(_keys(client, f"{shard.prefix}priorities:")):
        name = key.rpartition(":")[2]
        yield Check(f"{place}priorities of {name}", _priorities_fault(client, key, shard, meta))


def _settings_fault(shard: ReplayShard, meta: dict[str, str]) -> str:
    expected = {
        "capacity": shard.capacity,
        "row_bytes": shard.schema.row_bytes,
        "rows_per_block": shard.rows_per_block,
    }
    for name, value in expected.items():
        if meta.get(name) != str(value):
            return f"{name} is {meta.get(name, 'missing')}, expected {value}"
    head, inserted = int(meta.get("head", -1)), int(meta.get("inserted", -1))
    if not 0 <= inserted <= head:
        return f"{inserted} steps were inserted in {head} rows"
    return ""


def _check_blocks(client: Client, shard: ReplayShard, rows: int, per_block: int) -> tuple[int, str]:
    """How many blocks there must be, and what is wrong with them."""
    row_bytes = shard.schema.row_bytes
    count = -(-rows // per_block)
    for i in range(count):
        within = min(per_block, shard.capacity - i * per_block)
        least = min(within, rows - i * per_block) * row_bytes
        there = int(client.strlen(f"{shard.prefix}block:{i}"))
        if not least <= there <= within * row_bytes:
            first, last = i * per_block, i * per_block + within - 1
            return count, (
                f"block {i} (slots {first} to {last}) has {there:,} bytes, expected "
                f"{least:,} to {within * row_bytes:,}"
            )
    return count, ""


def _check_rows(schema: ReplaySchema, shard: ReplayShard, place: str) -> Check:
    """Every row stands where it can; see `first_fault`."""
    rest, number, steps, expected = schema.empty(0), 0, 0, None
    for first, part in read_rows(schema, shard):
        if expected is not None and first != expected:  # overwritten while being read
            rest = rest[:0]
        rows, number = np.concatenate([rest, part]), first - len(rest)
        fault = _begin_fault(number, rows) or _fault(schema, number, rows)
        if fault:
            return Check(f"{place}rows from {number:,} on", fault)
        steps += int((part["kind"] == STEP).sum())
        rest, expected = rows[-1:], first + len(part)
    if len(rest) and rest["kind"][-1] != CLOSING:
        return Check(f"{place}rows", f"row {expected} is missing: the last fragment has no end")
    newest = f" up to {(expected or 1) - 1:,}" if expected else ""
    return Check(f"{place}rows{newest}: {steps:,} steps in whole fragments")


def _begin_fault(number: int, rows: Rows) -> str:
    if number == 0 and rows["kind"][0] == CLOSING:
        return "row 0 is a closing row without a step before it"
    return ""


def _fault(schema: ReplaySchema, number: int, rows: Rows) -> str:
    fault = first_fault(schema, rows)
    return f"row {number + fault.position} {fault.reason}" if fault else ""


def _keys(client: Client, prefix: str) -> list[str]:
    found = client.scan_iter(match=f"{prefix}*", count=1000)
    return [key.decode() for key in found if key.decode().startswith(prefix)]


def _priorities_fault(client: Client, key: str, shard: ReplayShard, meta: dict[str, str]) -> str:
    saved = client.hgetall(key)
    if _text(saved.pop(b"id", b"")) != meta.get("id"):
        return ""  # of a replay of this name that was removed; nobody reads them
    head, maximum = int(saved.pop(b"head", -1)), float(saved.pop(b"maximum", "nan"))
    if not 0 <= head <= int(meta["head"]):
        return f"they reach to row {head}, the replay to {meta['head']}"
    if not (np.isfinite(maximum) and maximum > 0):
        return f"the priority of new rows is {maximum}"
    for field, data in saved.items():
        assert isinstance(data, bytes)
        slot = int(field)
        expected = min(PRIORITY_BLOCK, shard.capacity - slot)
        if slot % PRIORITY_BLOCK or len(data) != 4 * expected:
            return f"the block at slot {slot} has {len(data):,} bytes, expected {4 * expected:,}"
        values = np.frombuffer(data, "<f4")
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(wrong):
            return f"slot {slot + wrong[0]} has priority {values[wrong[0]]}"
    return ""


def _text(reply: bytes | str) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply
