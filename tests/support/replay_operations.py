"""Everything that is asked of a replay's Redis, and the rights that takes."""

from __future__ import annotations

import numpy as np
from replay_rig import SCHEMA, make_rows

from services.common.replay import ReplayProducer, ReplayStore, connect, list_replays

# What docs/replay.md says that a user needs.
RULES = (
    "~tutelage:replay:*",
    *("+evalsha", "+eval", "+hmget", "+hget", "+hset", "+hgetall", "+hincrby", "+hlen", "+hdel"),
    *("+exists", "+waitaof"),
    *("+setrange", "+getrange", "+memory|usage", "+time", "+info", "+scan", "+unlink", "+del"),
)
CLUSTER_RULES = ("+cluster|slots", "+command", "+asking")


def use_every_operation(url: str, name: str) -> None:
    """Make, fill, read, look at and remove a replay; asserts that each came to something."""
    with connect(url) as client:
        store = ReplayStore(client, name, SCHEMA, 100, shards=2)
        ReplayProducer(store, shard=1).append(make_rows(1, range(5)))
        shard = ReplayStore.open_existing(client, name).shards[1]
        assert shard.tail(0, 100, sampled=3).head == 6
        assert len(shard.sample(np.array([1])).missing) == 0
        shard.save_priorities("s", 6, 1.0, [])
        assert shard.load_priorities("s") is not None
        assert shard.stats().rows == 6
        shard.make_durable(6)
        shard.cut_back(shard.made_at, 0, 0, 0, needed=0)
        assert shard.stats().rows == 0
        assert name in list_replays(client)
        store.remove()
        assert name not in list_replays(client)
