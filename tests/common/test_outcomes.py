"""Decisions and what came of them, joined in a real Valkey and appended to a real replay."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import redis
from replay_rig import steps_of
from tiny_policies import CARTPOLE

from services.common.errors import InvalidInput, ReplayUnavailable
from services.common.outcomes import (
    Decided,
    Feeder,
    Outcome,
    Reported,
    RowMaker,
    WaitingDecisions,
    outcomes_replay,
)
from services.common.outcomes import feeder as feeders
from services.common.replay import MirrorReplay, ReplayStore, Sampling, connect
from services.common.replay.schema import CLOSING
from services.common.spec import DictSpace, ObservationSpace

ROWS = RowMaker(CARTPOLE)
KEPT, DUPLICATE, UNKNOWN = Reported.KEPT, Reported.DUPLICATE, Reported.UNKNOWN
IDS = itertools.count(1)


def seen(value: float) -> np.ndarray:
    return np.full((1, 4), value, dtype=np.float32)


def decided(value: float, previous: Decided | None = None) -> Decided:
    """A decision in a state whose elements all have this value."""
    row = ROWS.decided(seen(value), None, int(value) % 2, -0.5, 3)
    return Decided(f"{next(IDS):016x}", previous.id if previous else "", row)


def episode(*values: float) -> list[Decided]:
    """Decisions, each of which led to the next."""
    steps: list[Decided] = []
    for value in values:
        steps.append(decided(value, steps[-1] if steps else None))
    return steps


def reached(value: float) -> bytes:
    return ROWS.reached(seen(value), None)


def came(decision: Decided, reward: float = 1.0, **parts: object) -> Outcome:
    return Outcome(decision.id, reward, **{"terminated": False, "truncated": False, **parts})


@pytest.fixture
def waiting(client: redis.Redis, name: str) -> WaitingDecisions:
    return kept_for(client, name, 60)


def kept_for(client: redis.Redis, name: str, wait_s: float, most: int = 1000) -> WaitingDecisions:
    size = ROWS.schema.row_bytes
    return WaitingDecisions(
        client, name, wait_s=wait_s, max_bytes=most * (2 * size + 600), row_bytes=size
    )


def feeder_of(client: redis.Redis, name: str) -> Feeder:
    return Feeder(client, name, ROWS.schema, max_bytes=1 << 20, max_rows=1000)


@pytest.fixture
def feeder(client: redis.Redis, name: str) -> Feeder:
    return feeder_of(client, name)


def stored(client: redis.Redis, name: str) -> np.ndarray:
    """All rows of the policy's replay."""
    store = ReplayStore.open_existing(client, outcomes_replay(name))
    return store.schema.unpack(store.shards[0].tail(0, 1 << 20).data)


def leaves_of(client: redis.Redis, name: str) -> dict[str, int]:
    """How much there is under each of a policy's keys."""
    prefix = f"tutelage:outcomes:{{{name}}}:"
    return {
        "decisions": client.hlen(f"{prefix}decisions"),
        "waiting": client.zcard(f"{prefix}waiting"),
        "joined": client.xlen(f"{prefix}joined"),
    }


def test_an_episode_of_a_session_becomes_one_fragment(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    steps = episode(0, 1, 2)
    for i, step in enumerate(steps):
        assert waiting.record([step]) == 0
        end = i == 2
        outcome = came(step, 10.0 + i, terminated=end, reached=reached(9) if end else None)
        assert waiting.report([outcome]) == [KEPT]
    assert feeder.move() == 3

    rows = stored(client, name)
    assert rows["observation"][:, 0].tolist() == [0, 1, 2, 9]
    assert rows["kind"].tolist() == [0, 0, 0, CLOSING]
    assert rows["step"].tolist() == [0, 1, 2, 3]
    assert len(set(rows["episode_id"].tolist())) == 1
    rows = steps_of(rows)
    assert rows["reward"].tolist() == [10, 11, 12]
    assert rows["action"].tolist() == [0, 1, 0]
    assert rows["log_probability"].tolist() == [-0.5] * 3
    assert rows["policy_version"].tolist() == [3] * 3
    assert rows["terminated"].tolist() == [False, False, True]


def test_transitions_of_several_moves_still_follow_one_another(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    for i, step in enumerate(episode(0, 1, 2, 3)):
        waiting.record([step])
        waiting.report([came(step, 2.0**i)])
        feeder.move()
    store = ReplayStore.open_existing(client, outcomes_replay(name))
    replay = MirrorReplay(store, Sampling(np.random.default_rng(0), n_step=3, discount=1.0))
    replay.sync()
    batch = replay.sample(50)
    rewards = dict(zip(batch.observation[:, 0].tolist(), batch.reward.tolist(), strict=True))
    assert rewards == {0: 7, 1: 6, 2: 4}  # the fourth still waits for what it led to


def test_reports_in_any_order(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    steps = episode(0, 1, 2)
    waiting.record(steps)
    last = came(steps[2], 3, truncated=True, reached=reached(7))
    assert waiting.report([last, came(steps[0], 1), came(steps[1], 2)]) == [KEPT] * 3
    assert feeder.move() == 3
    rows = stored(client, name)
    assert rows["observation"][:, 0].tolist() == [0, 1, 2, 7]
    assert steps_of(rows)["reward"].tolist() == [1, 2, 3]


def test_an_outcome_counts_once(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    step = decided(0)
    waiting.record([step])
    again = came(step, 5, terminated=True)
    assert waiting.report([came(step, 1), again]) == [KEPT, DUPLICATE]
    waiting.record([decided(1, step)])
    assert waiting.report([again]) == [DUPLICATE]  # joined by now
    assert feeder.move() == 1
    assert waiting.report([again]) == [DUPLICATE]  # and in the replay
    rows = steps_of(stored(client, name))
    assert rows["reward"].tolist() == [1]
    assert not rows["terminated"].any()


def test_a_lost_report_takes_its_own_transition_with_it_and_no_other(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    steps = episode(0, 1, 2, 3)
    for i, step in enumerate(steps):
        waiting.record([step])
        if i != 1:
            waiting.report([came(step)])
    feeder.move()
    rows = stored(client, name)
    assert steps_of(rows)["step"].tolist() == [0, 2]
    assert rows["observation"][:, 0].tolist() == [0, 1, 2, 3]  # two fragments of one step


def test_what_nobody_decided_is_unknown(waiting: WaitingDecisions) -> None:
    assert waiting.report([Outcome("0" * 16, 1.0, False, False)]) == [UNKNOWN]


def test_a_decision_is_forgotten_when_its_time_is_over(client: redis.Redis, name: str) -> None:
    waiting = kept_for(client, name, 0.05)
    step = decided(0)
    waiting.record([step])
    time.sleep(0.1)
    assert waiting.report([came(step)]) == [UNKNOWN]
    assert waiting.record([]) == 1
    assert leaves_of(client, name) == {"decisions": 0, "waiting": 0, "joined": 0}


def test_the_oldest_are_forgotten_when_there_are_too_many(client: redis.Redis, name: str) -> None:
    waiting = kept_for(client, name, 60, most=4)
    assert waiting.most == 4
    steps = [decided(value) for value in range(10)]
    assert waiting.record(steps[:3]) == 0
    assert waiting.record(steps[3:7]) == 3
    assert waiting.report([came(step) for step in steps[2:5]]) == [UNKNOWN, KEPT, KEPT]
    assert leaves_of(client, name)["waiting"] == 4


def test_what_is_joined_and_not_read_is_limited_too(client: redis.Redis, name: str) -> None:
    waiting = kept_for(client, name, 60, most=4)
    for value in range(10):
        step = decided(value)
        waiting.record([step])
        waiting.report([came(step, reached=reached(value + 1))])
    assert leaves_of(client, name)["joined"] == 4


def test_after_an_end_an_episode_begins_whatever_the_decision_says(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    for i, step in enumerate(episode(0, 1, 2, 3)):
        waiting.record([step])
        waiting.report([came(step, terminated=i % 2 == 1)])
    feeder.move()
    rows = steps_of(stored(client, name))
    assert rows["step"].tolist() == [0, 1, 0, 1]
    assert len(set(rows["episode_id"].tolist())) == 2


def test_a_decision_made_twice_for_want_of_its_reply_breaks_nothing(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    first = decided(0)
    unseen, second = decided(1, first), decided(1, first)
    third = decided(2, second)
    for step in (first, unseen, second, third):
        waiting.record([step])
    waiting.report([came(first), came(second), came(third, truncated=True, reached=reached(3))])
    assert feeder.move() == 3
    rows = stored(client, name)
    assert rows["observation"][:, 0].tolist() == [0, 1, 2, 3]
    assert rows["step"].tolist() == [0, 1, 2, 3]


def test_one_that_names_what_is_no_longer_known_begins_an_episode(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    step = decided(5, decided(4))
    waiting.record([step])
    waiting.report([came(step, reached=reached(6))])
    feeder.move()
    assert stored(client, name)["step"].tolist() == [0, 1]


def test_episodes_do_not_mix(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    pairs = zip(episode(10, 11, 12), episode(20, 21, 22), strict=True)
    both = [step for pair in pairs for step in pair]
    waiting.record(both)
    waiting.report([came(step) for step in both])
    assert feeder.move() == 4
    rows = stored(client, name)
    found = sorted(rows["observation"][:, 0].reshape(2, 3).tolist())
    assert found == [[10, 11, 12], [20, 21, 22]]


def test_masks_and_parts_are_kept(client: redis.Redis, name: str) -> None:
    spaces = {
        "x": ObservationSpace(dtype="float32", shape=(2,)),
        "n": ObservationSpace(dtype="int64", shape=()),
    }
    space = DictSpace(parts=spaces)
    maker = RowMaker(CARTPOLE.model_copy(update={"observation": space, "masked": True}))
    state = np.zeros(1, space.row)
    state["x"], state["n"] = [[1, 2]], 7
    row = maker.schema.unpack(maker.decided(state, np.array([[True, False]]), 0, 0.0, 1))
    assert row["observation.x"].tolist() == [[1, 2]]
    assert row["observation.n"].tolist() == [7]
    assert row["action_mask"].tolist() == [[True, False]]
    assert maker.schema.unpack(maker.reached(state, None))["action_mask"].all()


def test_two_feeders_share_the_work(
    client: redis.Redis, name: str, waiting: WaitingDecisions, feeder: Feeder
) -> None:
    other, moved = feeder_of(client, name), 0
    for value in range(6):
        step = decided(value)
        waiting.record([step])
        waiting.report([came(step, reached=reached(value))])
        moved += (feeder, other)[value % 2].move()
    assert moved == 6
    assert len(steps_of(stored(client, name))) == 6


def test_what_a_feeder_that_died_had_taken_is_appended_by_another(
    client: redis.Redis,
    name: str,
    waiting: WaitingDecisions,
    feeder: Feeder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = decided(0)
    waiting.record([step])
    waiting.report([came(step, 4, reached=reached(1))])
    feeder._taken = feeder._take()
    assert feeder._taken is not None
    assert feeder_of(client, name).move() == 0
    monkeypatch.setattr(feeders, "ABANDONED_S", 0.0)
    assert feeder_of(client, name).move() == 1
    assert steps_of(stored(client, name))["reward"].tolist() == [4]


def test_a_replay_that_cannot_be_appended_to_keeps_what_was_taken(
    client: redis.Redis, name: str, waiting: WaitingDecisions
) -> None:
    other = RowMaker(CARTPOLE.model_copy(update={"masked": True})).schema
    ReplayStore(client, outcomes_replay(name), other, 100)
    feeder, step = feeder_of(client, name), decided(0)
    waiting.record([step])
    waiting.report([came(step, reached=reached(1))])
    with pytest.raises(InvalidInput, match=f"tutelage replay rm {name}.outcomes"):
        feeder.move()
    ReplayStore.open_existing(client, outcomes_replay(name)).remove()
    assert feeder.move() == 1
    assert len(steps_of(stored(client, name))) == 1


def test_redis_that_is_away() -> None:
    with connect("redis://127.0.0.1:1") as away:
        waiting = kept_for(away, "cartpole", 60)
        with pytest.raises(ReplayUnavailable):
            waiting.record([decided(0)])
        with pytest.raises(ReplayUnavailable):
            feeder_of(away, "cartpole").move()
