"""Where a replay's shards lie among Redis's keys."""

from __future__ import annotations

import re
from itertools import count

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from services.common.errors import InvalidInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
META_PATTERN = "tutelage:replay:{*}:meta"
_META = re.compile(r"tutelage:replay:\{([^:}]+)\}:meta")


def check_name(name: str) -> None:
    """Raises InvalidInput unless it can name a replay."""
    if not NAME.fullmatch(name):
        raise InvalidInput(f"replay name {name!r} must match {NAME.pattern}")


def tags(name: str, shards: int) -> list[str]:
    """The hash tags of a replay's shards: its name, then name:1, name:2 and so on.

    A cluster's nodes usually have ranges of slots of equal length, so tags whose slots are
    evenly apart spread the shards evenly; a letter more is added until they are.
    """
    first = _slot(name)
    wanted = [(first + i * REDIS_CLUSTER_HASH_SLOTS // shards) for i in range(1, shards)]
    return [name, *(_near(f"{name}:{i}", slot, shards) for i, slot in enumerate(wanted, 1))]


def prefix(tag: str) -> str:
    """What all keys of a shard begin with."""
    return f"tutelage:replay:{{{tag}}}:"


def name_in(meta_key: str) -> str | None:
    """The replay's name in the key of its first shard's meta; None for others."""
    match = _META.fullmatch(meta_key)
    return match[1] if match else None


def _near(tag: str, slot: int, shards: int) -> str:
    reach = REDIS_CLUSTER_HASH_SLOTS // (4 * shards)
    for attempt in count():
        candidate = f"{tag}.{attempt}" if attempt else tag
        away = (_slot(candidate) - slot) % REDIS_CLUSTER_HASH_SLOTS
        if min(away, REDIS_CLUSTER_HASH_SLOTS - away) <= reach:
            return candidate
    raise AssertionError("count() does not end")


def _slot(tag: str) -> int:
    return key_slot(tag.encode())
