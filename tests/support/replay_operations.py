"""Everything that is asked of a replay's Redis, and the rights that takes."""

from __future__ import annotations

import numpy as np
from replay_rig import SCHEMA, make_rows
from tiny_policies import CARTPOLE

from services.common.outcomes import (
    Decided,
    Feeder,
    Outcome,
    RowMaker,
    WaitingDecisions,
    outcomes_replay,
)
from services.common.replay import ReplayProducer, ReplayStore, connect, list_replays

# What docs/replay.md says that a user needs.
RULES = (
    "~tutelage:replay:*",
    *("+evalsha", "+eval", "+hmget", "+hget", "+hset", "+hgetall", "+hincrby", "+hlen", "+hdel"),
    *("+exists", "+waitaof"),
    *("+setrange", "+getrange", "+memory|usage", "+time", "+info", "+scan", "+unlink", "+del"),
)
OUTCOME_RULES = (
    "~tutelage:outcomes:*",
    *("+hexists", "+hsetnx", "+zadd", "+zscore", "+zcard", "+zrange", "+zrangebyscore", "+zrem"),
    *("+xadd", "+xreadgroup", "+xautoclaim", "+xack", "+xdel", "+xgroup", "+multi", "+exec"),
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


def use_every_operation_of_outcomes(url: str, policy: str) -> None:
    """Keep decisions, report outcomes, forget some, and put what is joined into the replay."""
    rows = RowMaker(CARTPOLE)
    state = np.zeros((1, 4), np.float32)
    row = rows.decided(state, None, 0, 0.0, 1)
    with connect(url) as client:
        waiting = WaitingDecisions(
            client, policy, wait_s=60, max_bytes=3000, row_bytes=rows.schema.row_bytes
        )
        first, second = Decided("1" * 16, "", row), Decided("2" * 16, "1" * 16, row)
        waiting.record([first])
        waiting.report([Outcome(first.id, 1.0, False, False)])
        waiting.record([second])
        waiting.report([Outcome(second.id, 1.0, True, False)])
        feeder = Feeder(client, policy, rows.schema, max_bytes=1 << 16, max_rows=100)
        assert feeder.move() == 2
        assert feeder.move() == 0
        lost = sum(waiting.record([Decided(f"{i:016x}", "", row)]) for i in range(10))
        assert lost == 10 - waiting.most
        feeder.close()
        store = ReplayStore.open_existing(client, outcomes_replay(policy))
        assert store.shards[0].stats().inserted == 2
