"""Where a replay's shards lie among Redis's keys."""

from __future__ import annotations

import itertools
import re

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

    A cluster's nodes usually have ranges of slots of equal length. So each shard is given one of
    as many equal ranges of its own: ".0", ".1" and so on is added to a tag until it lies there.
    """
    first = _part(name, shards)
    return [name, *(_tag_in(f"{name}:{i}", (first + i) % shards, shards) for i in range(1, shards))]


def prefix(tag: str) -> str:
    """What all keys of a shard begin with."""
    return f"tutelage:replay:{{{tag}}}:"


def name_in(meta_key: str) -> str | None:
    """The replay's name in the key of its first shard's meta; None for others."""
    match = _META.fullmatch(meta_key)
    return match[1] if match else None


def _tag_in(tag: str, part: int, parts: int) -> str:
    candidates = itertools.chain([tag], (f"{tag}.{i}" for i in itertools.count()))
    return next(candidate for candidate in candidates if _part(candidate, parts) == part)


def _part(tag: str, parts: int) -> int:
    """In which of so many equal ranges of slots a tag lies."""
    return key_slot(tag.encode()) * parts // REDIS_CLUSTER_HASH_SLOTS
