"""What samplers draw, how often, and what a batch is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis
from replay_rig import SCHEMA, make_rows

from services.common.errors import InvalidConfig, InvalidInput, ReplayDataLost
from services.common.replay import (
    Batch,
    Field,
    MemoryReplay,
    MirrorReplay,
    Prioritized,
    Replay,
    ReplayProducer,
    ReplaySchema,
    ReplayStore,
    Sampling,
    ServerReplay,
    Transitions,
    open_replay,
    server,
)
from services.common.replay.fragments import FragmentBuilder, assemble
from services.common.replay.samplers import Uniform
from services.common.replay.schema import STEP, Rows

ODDS_999 = 3.09  # standard deviations that a normal variable passes once in a thousand times


def sampling(seed: int = 0, **options: object) -> Sampling:
    return Sampling(np.random.default_rng(seed), **options)


def filled(rows: list[Rows], capacity: int = 100, **options: object) -> MemoryReplay:
    replay = MemoryReplay(SCHEMA, capacity, sampling(**options))
    for chunk in rows:
        replay.append(chunk)
    return replay


def uneven(episodes: int = 30) -> list[Rows]:
    """Fragments of 1 to 7 steps."""
    return [make_rows(e, range(1 + e % 7), terminated=e % 7) for e in range(episodes)]


def assert_fits(index: np.ndarray, expected: dict[int, float]) -> None:
    """A chi-square test of draws against probabilities, at odds of one in a thousand."""
    numbers = sorted(expected)
    assert set(index.tolist()) <= set(numbers)
    counts = np.array([(index == number).sum() for number in numbers])
    mean = len(index) * np.array([expected[number] for number in numbers])
    chi_square = float(((counts - mean) ** 2 / mean).sum())
    freedom = len(numbers) - 1
    # Wilson and Hilferty's cube root is normal.
    bound = freedom * (1 - 2 / (9 * freedom) + ODDS_999 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert chi_square < bound


def step_numbers(chunks: list[Rows], capacity: int) -> list[int]:
    rows = np.concatenate(chunks)
    first = max(0, len(rows) - capacity)
    return [i for i in range(first, len(rows)) if rows["kind"][i] == STEP]


@pytest.mark.parametrize("capacity", [1000, 37])
def test_uniform_draws_each_step_equally_often(capacity: int) -> None:
    replay = filled(uneven(), capacity)
    index = np.concatenate([replay.sample(500).index for _ in range(40)])
    numbers = step_numbers(uneven(), capacity)
    assert_fits(index, dict.fromkeys(numbers, 1 / len(numbers)))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_prioritised_draws_are_proportional_and_their_weights_undo_it(alpha: float) -> None:
    replay = filled(uneven(), 60, sampler=Prioritized(alpha=alpha, beta=1.0))
    numbers = np.array(step_numbers(uneven(), 60))
    priorities = 0.1 + np.random.default_rng(1).random(len(numbers)) * 5
    replay.update_priorities(numbers, -priorities)
    masses = (priorities + 1e-6) ** alpha
    expected = dict(zip(numbers.tolist(), (masses / masses.sum()).tolist(), strict=True))
    # Stratified draws fit better than independent ones; a draw a batch is independent.
    batches = [replay.sample(1) for _ in range(8000)]
    assert_fits(np.concatenate([b.index for b in batches]), expected)
    batch = replay.sample(500)
    chances = np.array([expected[i] for i in batch.index.tolist()])
    np.testing.assert_allclose(batch.weights, min(expected.values()) / chances, rtol=1e-5)


def test_a_batch_takes_one_of_each_equal_share() -> None:
    replay = filled([make_rows(1, range(10))], sampler=Prioritized())
    assert sorted(replay.sample(10).index.tolist()) == list(range(10))


def test_new_rows_have_the_greatest_priority_given_and_beta_can_be_raised() -> None:
    replay = filled([make_rows(1, range(4))], sampler=Prioritized(alpha=1.0, beta=0.0))
    replay.update_priorities(np.arange(4), np.array([1.0, 1.0, 1.0, 7.0]))
    replay.append(make_rows(2, range(1)))
    index = np.concatenate([replay.sample(17).index for _ in range(100)])
    counts = np.bincount(index, minlength=6)
    assert counts[5] == pytest.approx(counts[3], rel=0.02)
    assert counts[0] == pytest.approx(counts[3] / 7, rel=0.2)
    assert replay.sample(8).weights.tolist() == [1] * 8
    replay.beta = 1.0
    np.testing.assert_allclose(np.unique(replay.sample(100).weights), [1 / 7, 1], rtol=1e-5)


def test_as_many_priorities_as_rows_are_wanted() -> None:
    replay = filled([make_rows(1, range(5))], sampler=Prioritized())
    with pytest.raises(InvalidInput, match="1 priorities were given for 2 rows"):
        replay.update_priorities(np.array([0, 1]), np.array([1.0]))


def test_priorities_that_are_no_numbers_are_refused() -> None:
    replay = filled([make_rows(1, range(4))], sampler=Prioritized())
    with pytest.raises(InvalidInput, match="not a finite number"):
        replay.update_priorities(np.array([0]), np.array([np.nan]))


def test_nothing_can_be_sampled_from_nothing() -> None:
    replay = MemoryReplay(SCHEMA, 10, sampling(), name="bare")
    with pytest.raises(ReplayDataLost, match="replay bare holds no rows"):
        replay.sample(1)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="n_step 0"):
        sampling(n_step=0)
    with pytest.raises(InvalidConfig, match="epsilon 0"):
        Prioritized(epsilon=0)


def test_the_same_generator_draws_the_same() -> None:
    for sampler in (Uniform(), Prioritized()):
        one, two = (filled(uneven(), sampler=sampler).sample(20).index for _ in range(2))
        np.testing.assert_array_equal(one, two)


def test_torch_takes_a_batch_as_it_lies() -> None:
    torch = pytest.importorskip("torch")
    schema = ReplaySchema.transitions((2, 3), "uint8", stack=2)
    replay = MemoryReplay(schema, 100, sampling())
    replay.append(make_rows(1, range(2), schema=schema))
    replay.append(make_rows(1, range(2, 50), schema=schema))
    batch = replay.sample(8)
    assert batch.observation.base is not None
    assert torch.from_numpy(batch.observation).shape == (8, 2, 2, 3)
    assert torch.equal(
        torch.from_numpy(batch.observation)[:, 1], torch.from_numpy(batch.next_observation)[:, 0]
    )
    for column in (batch.reward, batch.action, batch.terminated, batch.discount, batch.weights):
        assert len(torch.from_numpy(column)) == 8


NESTED = ReplaySchema(
    (
        Field("observation.camera", "uint8", (2,), stack=2, pad="zero"),
        Field("observation.arm.0", "float32", (3,)),
        Field("observation.arm.1", "int64"),
        Field("action_mask", "bool", (4,)),
        Field("hidden", "float32", (2,)),
    ),
    Field("action", "float32", (2,)),
    {"camera": None, "arm": (None, None)},
)


def nested_rows(steps: int) -> tuple[Rows, Rows]:
    rows, reached = NESTED.empty(steps), NESTED.empty(steps)
    for states, later in ((rows, 0), (reached, 1)):
        at = 1 + np.arange(steps) + later
        states["observation.camera"] = at[:, None]
        states["observation.arm.0"] = at[:, None] / 2
        states["observation.arm.1"] = -at
        states["action_mask"] = (at[:, None] + np.arange(4)) % 2
        states["hidden"] = at[:, None] / 4
    rows["step"] = np.arange(steps)
    rows["action"] = np.arange(steps)[:, None]
    return rows, reached


def test_nested_observations_masks_and_recurrent_states() -> None:
    replay = MemoryReplay(NESTED, 100, sampling())
    replay.append(assemble(NESTED, *nested_rows(6), np.zeros(6, dtype=np.int64)))
    batch = replay.sample(50)
    at = batch.index + 1
    seen, after = batch.observation, batch.next_observation
    np.testing.assert_array_equal(seen["camera"][:, :, 0], np.stack([at - 1, at], axis=1))
    np.testing.assert_array_equal(after["camera"][:, :, 0], np.stack([at, at + 1], axis=1))
    np.testing.assert_array_equal(seen["arm"][0][:, 0], at / 2)
    np.testing.assert_array_equal(after["arm"][1], -at - 1)
    np.testing.assert_array_equal(batch.extras["hidden"][:, 1], at / 4)
    np.testing.assert_array_equal(batch.next_extras["action_mask"][:, 0], (at + 1) % 2)
    assert batch.action.shape == (50, 2)
    stretch = replay.sample_sequences(5, length=2, burn_in=1)
    np.testing.assert_array_equal(stretch.initial["hidden"][:, 0], (stretch.index + 1) / 4)
    assert stretch.observation["camera"].shape == (5, 3, 2, 2)
    assert (stretch.burn_in, stretch.weights.tolist()) == (1, [1] * 5)


class Model:
    """Rewards that are the version; counts what it was asked."""

    def __init__(self) -> None:
        self.version, self.asked = 1, 0

    def rewards(self, transitions: Transitions) -> np.ndarray:
        self.asked += len(transitions)
        assert transitions.next_observation.shape == transitions.observation.shape
        return np.full(len(transitions), self.version, np.float32)


def test_rewards_are_made_anew_once_a_version() -> None:
    model = Model()
    replay = filled([make_rows(1, range(8))], capacity=20, relabel=model, n_step=2, discount=0.5)
    for _ in range(20):
        assert set(replay.sample(30).reward.tolist()) <= {1.0, 1.5}
    assert model.asked == 8
    model.version = 3
    assert set(replay.sample(200).reward.tolist()) == {3.0, 4.5}
    assert model.asked == 16
    replay.append(make_rows(2, range(13)))  # overwrites them all but 5
    for _ in range(20):
        replay.sample(30)
    assert model.asked == 16 + 13


def test_rows_may_lie_in_a_file(tmp_path: Path) -> None:
    mapped = MemoryReplay(SCHEMA, 37, sampling(n_step=3), folder=tmp_path / "ring")
    plain = MemoryReplay(SCHEMA, 37, sampling(n_step=3))
    for rows in uneven():
        mapped.append(rows)
        plain.append(rows)
    one, two = mapped.sample(100), plain.sample(100)
    np.testing.assert_array_equal(one.observation, two.observation)
    np.testing.assert_array_equal(one.reward, two.reward)
    (file,) = (tmp_path / "ring").iterdir()
    assert file.stat().st_size >= 37 * SCHEMA.row_bytes


# Below, against a server.


def opened(client: redis.Redis, name: str, capacity: int = 100, **options: object) -> Replay:
    generator = np.random.default_rng(0)
    return open_replay(client, name, SCHEMA, capacity, generator=generator, **options)


def append(client: redis.Redis, name: str, chunks: list[Rows], capacity: int, shards: int) -> None:
    store = ReplayStore(client, name, SCHEMA, capacity, shards)
    producers = [ReplayProducer(store, shard) for shard in range(shards)]
    for i, rows in enumerate(chunks):
        producers[i % shards].append(rows)


def check_batch(batch: Batch, n: int = 1, discount: float = 0.99) -> None:
    """`uneven` episodes e have 1 + e % 7 steps, of which step t pays t + 1."""
    episode = (batch.observation[:, 0] // 100).astype(int)
    step = (batch.observation[:, 0] % 100).astype(int)
    taken = np.minimum(n, 1 + episode % 7 - step)
    ended = step + taken == 1 + episode % 7
    np.testing.assert_array_equal(batch.next_observation[:, 0], batch.observation[:, 0] + taken)
    np.testing.assert_array_equal(batch.terminated, ended)
    np.testing.assert_allclose(
        batch.reward,
        [
            sum(discount**k * (t + k + 1) for k in range(m))
            for t, m in zip(step, taken, strict=True)
        ],
        rtol=1e-6,
    )
    np.testing.assert_allclose(batch.discount, np.where(ended, 0, discount**taken), rtol=1e-6)
    assert len(batch.index) == len(batch.shard) == len(batch.weights) == len(batch)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("mode", ["mirror", "server"])
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("n", [1, 3])
def test_every_way_to_sample_gives_what_was_appended(
    client: redis.Redis, name: str, shards: int, mode: str, prefetch: int, n: int
) -> None:
    append(client, name, uneven(), 111, shards)
    replay = opened(client, name, 111, mode=mode, shards=shards, prefetch=prefetch, n_step=n)
    for size in (200, 200, 7):
        batch = replay.sample(size)
        assert len(batch) == size
        check_batch(batch, n)
    assert set(batch.shard.tolist()) <= set(range(shards))
    replay.close()


@pytest.mark.parametrize("shards", [1, 2])
def test_the_server_draws_each_step_equally_often(
    client: redis.Redis, name: str, shards: int
) -> None:
    append(client, name, uneven(), 60 * shards, shards)
    replay = opened(client, name, 60 * shards, mode="server", shards=shards)
    batches = [replay.sample(500) for _ in range(30)]
    index = np.concatenate([1000 * b.shard + b.index for b in batches])
    numbers = [
        1000 * shard + number
        for shard in range(shards)
        for number in step_numbers(uneven()[shard::shards], 60)
    ]
    assert_fits(index, dict.fromkeys(numbers, 1 / len(numbers)))
    replay.close()


@pytest.mark.parametrize("mode", ["mirror", "server"])
def test_one_learner_appends_and_samples(client: redis.Redis, name: str, mode: str) -> None:
    replay = opened(client, name, mode=mode)
    with pytest.raises(ReplayDataLost, match="holds no rows"):
        replay.sample(1)
    for chunk in uneven(5):
        replay.append(chunk)
    replay.sync()
    assert replay.size == sum(1 + e for e in range(5))
    check_batch(replay.sample(50))
    replay.checkpoint()
    replay.close()


def test_server_mode_has_no_priorities(client: redis.Redis, name: str) -> None:
    with pytest.raises(InvalidConfig, match="mode='mirror'"):
        opened(client, name, mode="server", sampler=Prioritized())


@pytest.mark.parametrize("shards", [1, 3])
def test_priorities_are_there_again_when_the_learner_is(
    client: redis.Redis, name: str, shards: int
) -> None:
    append(client, name, uneven(), 150, shards)
    options = {"sampler": Prioritized(alpha=1.0), "shards": shards}
    replay = opened(client, name, 150, **options)
    assert isinstance(replay, MirrorReplay)
    for _ in range(30):
        batch = replay.sample(64)
        replay.update_priorities(batch.index, batch.observation[:, 0] % 13, batch.shard)
    replay.close()
    ReplayProducer(replay._store, 0).append(make_rows(99, range(5)))
    replay.sync()

    again = opened(client, name, 150, **options)
    assert isinstance(again, MirrorReplay)
    for one, two in zip(replay._prioritized.trees, again._prioritized.trees, strict=True):
        np.testing.assert_allclose(one.values, two.values, rtol=1e-6)
        assert one.minimum == pytest.approx(two.minimum)


def test_a_mirror_in_files_is_the_same(client: redis.Redis, name: str, tmp_path: Path) -> None:
    append(client, name, uneven(), 60, 2)
    plain = opened(client, name, 60, shards=2)
    mapped = opened(client, name, 60, shards=2, folder=tmp_path)
    np.testing.assert_array_equal(plain.sample(50).observation, mapped.sample(50).observation)
    assert len(list(tmp_path.iterdir())) == 2


def test_server_mode_draws_sequences_within_fragments(client: redis.Redis, name: str) -> None:
    append(client, name, uneven(), 1000, 1)
    replay = opened(client, name, 1000, mode="server")
    assert isinstance(replay, ServerReplay)
    batch = replay.sample_sequences(200, length=3, burn_in=1)
    assert batch.mask.shape == batch.reward.shape == batch.discount.shape == (200, 4)
    assert batch.observation.shape == batch.next_observation.shape == (200, 4, 1)
    episode, first = np.divmod(batch.observation[:, 0, 0].astype(int), 100)
    left = 1 + episode % 7 - first
    np.testing.assert_array_equal(batch.mask.sum(axis=1), np.minimum(left, 4))
    steps = first[:, None] + np.minimum(np.arange(4), left[:, None] - 1)
    np.testing.assert_array_equal(batch.observation[:, :, 0] % 100, steps)
    np.testing.assert_array_equal(batch.next_observation[:, :, 0] % 100, steps + 1)
    np.testing.assert_array_equal(batch.reward, steps + 1)
    ended = steps == (episode % 7)[:, None]
    np.testing.assert_allclose(batch.discount, np.where(ended, 0, 0.99), rtol=1e-6)
    replay.close()


def test_what_was_asked_for_ahead_is_no_obstacle(client: redis.Redis, name: str) -> None:
    append(client, name, uneven(), 100, 1)
    replay = opened(client, name, 100, mode="server")
    assert isinstance(replay, ServerReplay)
    check_batch(replay.sample(50))
    client.script_flush()  # the batch asked for ahead is there; the next has to ask again
    for size in (50, 50, 20):
        check_batch(replay.sample(size))
    client.client_kill_filter(_type="normal", skipme=True)
    check_batch(replay.sample(20))
    replay.sample_sequences(5, 2)
    check_batch(replay.sample(20))
    replay.close()
    assert replay._store.shards[0].stats().sampled == 50 + 50 + 50 + 20 + 20 + 5 + 20


def test_a_batch_asked_for_ahead_waits_for_no_one(client: redis.Redis, name: str) -> None:
    """Rows that were overwritten since are those of the time at which it was asked for."""
    append(client, name, uneven(5), 100, 1)
    replay = opened(client, name, 100, mode="server")
    replay.sample(50)
    append(client, name, uneven(30)[7:], 100, 1)
    check_batch(replay.sample(50))
    batch = replay.sample(200)
    check_batch(batch)
    assert batch.index.max() > 30
    replay.close()


def test_a_batch_of_server_mode_is_one_round_trip(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SYNC_PERIOD_S", 1000.0)
    append(client, name, [make_rows(1, range(90))], 100, 1)
    replay = opened(client, name, 100, mode="server")
    replay.sample(64)
    client.config_resetstat()
    for _ in range(20):
        replay.sample(64)
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 20
    replay.close()


@pytest.mark.parametrize("mode", ["mirror", "server"])
@pytest.mark.parametrize("stack", [1, 3])
def test_observations_may_be_single_numbers(
    client: redis.Redis, name: str, mode: str, stack: int
) -> None:
    schema = ReplaySchema.transitions((), "int64", stack=stack)
    builder = FragmentBuilder(schema, 1)
    for step in range(9):
        rows, reached = schema.empty(1), schema.empty(1)
        rows["step"] = step
        schema.set_observation(rows, np.array([step]))
        schema.set_observation(reached, np.array([step + 1]))
        builder.add(rows, reached)
    ReplayProducer(ReplayStore(client, name, schema, 100)).append(builder.take())
    generator = np.random.default_rng(0)
    replay = open_replay(client, name, schema, 100, generator=generator, mode=mode)
    batch = replay.sample(50)
    step = batch.rows["step"].astype(int)
    frames = np.maximum(step[:, None] + np.arange(1 - stack, 1), 0)
    expected = frames if stack > 1 else step
    np.testing.assert_array_equal(batch.observation, expected)
    assert batch.next_observation.shape == expected.shape
    replay.close()
