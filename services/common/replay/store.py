"""A named replay in Redis: its shards and its settings."""

from __future__ import annotations

from functools import partial
from typing import Any

from services.common.errors import InvalidInput, NotFound
from services.common.replay import keys
from services.common.replay.answers import (
    APPENDED,
    DUPLICATE,
    GAP,
    MISSING,
    WAIT,
    Appended,
    Sampled,
    SavedPriorities,
    Tail,
)
from services.common.replay.connection import Client, explained
from services.common.replay.limiter import Limits
from services.common.replay.schema import ReplaySchema
from services.common.replay.shard import ReplayShard
from services.common.replay.shard_stats import ShardStats

__all__ = [
    "APPENDED",
    "DUPLICATE",
    "GAP",
    "MISSING",
    "WAIT",
    "Appended",
    "ReplayShard",
    "ReplayStore",
    "Sampled",
    "SavedPriorities",
    "ShardStats",
    "Tail",
    "list_replays",
]


class ReplayStore:
    """A replay of packed rows. Making one creates it, or opens what is there.

    Args:
        client: from `connect`.
        name: letters, digits, ".", "_" and "-".
        schema: the columns; one that differs from the stored one is refused.
        capacity: rows kept, of any kind and in all shards; the oldest are overwritten. One
            that differs is refused.
        shards: rings on as many nodes of a cluster, if it has them; each producer appends to
            one of them. A number that differs is refused.
        limits: of samples per insert, from now on and for everybody; without, those in force
            stay. They hold for each shard on its own.

    Raises:
        InvalidInput: when name, schema, capacity or shards do not fit.
        InvalidConfig: when nothing could ever be sampled within the limits.
        ReplayUnavailable: when Redis does not answer.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        schema: ReplaySchema,
        capacity: int,
        shards: int = 1,
        limits: Limits | None = None,
    ) -> None:
        keys.check_name(name)
        if not 1 <= shards <= capacity:
            raise InvalidInput(
                f"replay capacity is {capacity} rows in {shards} shards, expected at least 1 "
                "shard of at least 1 row"
            )
        if limits is not None:
            limits.check(chunk_rows=1, batch_size=1, capacity=capacity, shards=shards)
        self.client, self.name, self.schema = client, name, schema
        self.capacity, self.limits = capacity, limits
        shard = partial(ReplayShard, client, name)
        self.shards: tuple[ReplayShard, ...] = tuple(
            shard(tag, schema, _share(capacity, shards, i), (capacity, shards), limits)
            for i, tag in enumerate(keys.tags(name, shards))
        )
        for part in self.shards:  # the first says what the others must be
            part.open()

    @classmethod
    def open_existing(cls, client: Client, name: str) -> ReplayStore:
        """Open a replay that is there, with what is stored of its settings.

        Raises:
            NotFound: when there is none of this name.
            InvalidInput: when it is of a schema version that this code does not read.
            ReplayUnavailable: when Redis does not answer.
        """
        keys.check_name(name)
        with explained(f"opening replay {name}"):
            fields: Any = client.hmget(f"{keys.prefix(name)}meta", ["schema", "total", "shards"])
        schema, capacity, shards = fields
        if schema is None:
            raise NotFound(f"there is no replay {name}")
        stored = ReplaySchema.from_json(schema.decode())
        return cls(client, name, stored, int(capacity or 0), int(shards or 0))

    @staticmethod
    def capacity_for(max_bytes: int, schema: ReplaySchema) -> int:
        """How many rows fit into so many bytes of Redis's memory.

        Raises:
            InvalidInput: when not even one does.
        """
        if max_bytes < schema.row_bytes:
            raise InvalidInput(
                f"max_bytes is {max_bytes}, expected at least the {schema.row_bytes} of one row"
            )
        return max_bytes // schema.row_bytes

    def remove(self) -> None:
        """Delete the replay and all of its rows."""
        for shard in reversed(self.shards):  # the first is what it is found by
            shard.remove()


def list_replays(client: Client) -> list[str]:
    """The names of all replays, sorted.

    Raises:
        ReplayUnavailable: when Redis does not answer.
    """
    with explained("listing replays"):
        found = client.scan_iter(match=keys.META_PATTERN, count=1000)
        names = {keys.name_in(key.decode()) for key in found}
    return sorted(name for name in names if name)


def _share(capacity: int, shards: int, i: int) -> int:
    return capacity * (i + 1) // shards - capacity * i // shards
