"""Rows of vectorised environments, whose step after an end only resets."""

from __future__ import annotations

import numpy as np
import pytest
from replay_rig import steps_of

from services.common.replay import ReplaySchema
from services.common.replay.schema import CLOSING, STEP, Rows
from services.trainer import environments
from services.trainer.collector import Choice, Collector, Episode
from services.trainer.config import EnvironmentConfig


def always(action: int, log_probability: float = -0.5) -> object:
    """A policy of one action."""

    def act(observations: np.ndarray) -> Choice:
        count = len(observations)
        return Choice(np.full(count, action), np.full(count, log_probability, dtype=np.float32))

    return act


def collect(
    environment: EnvironmentConfig, steps: int, first_episode: int = 0
) -> tuple[Rows, list[Episode]]:
    """Fragments and ended episodes of some steps of each environment."""
    envs = environments.make(environment)
    schema = ReplaySchema.transitions(envs.single_observation_space.shape, "float32")
    collector = Collector(envs, schema, seed=0, first_episode=first_episode)
    found = [collector.step(always(1), policy_version=3) for _ in range(steps)]
    envs.close()
    assert collector.held == sum(count for count, _ in found)
    return collector.take(), [episode for _, episodes in found for episode in episodes]


def corridor(**kwargs: object) -> EnvironmentConfig:
    return EnvironmentConfig(id="ProbeCorridor-v0", num_envs=2, kwargs=kwargs)


@pytest.mark.parametrize("cut", [False, True])
def test_each_step_of_an_episode_is_a_row_and_resets_are_none(cut: bool) -> None:
    # Episodes of three steps, then a step that resets: seven steps are two episodes.
    rows, episodes = collect(corridor(length=3, cut=cut), steps=7)
    assert len(steps_of(rows)) == 12
    assert rows[rows["episode_id"] == 0]["observation"][:, 0].tolist() == [0, 1, 2, 3]
    one = steps_of(rows)[steps_of(rows)["episode_id"] == 0]
    assert one["reward"].tolist() == [1, 2, 3]
    assert one["step"].tolist() == [0, 1, 2]
    assert one["terminated"].tolist() == [False, False, not cut]
    assert one["truncated"].tolist() == [False, False, cut]
    assert episodes == [Episode(6.0, 3)] * 4


def test_episodes_have_ids_of_their_own() -> None:
    rows = steps_of(collect(corridor(length=3), steps=7, first_episode=100)[0])
    assert sorted(set(rows["episode_id"].tolist())) == [100, 101, 102, 103]
    for episode in range(100, 104):
        assert rows[rows["episode_id"] == episode]["step"].tolist() == [0, 1, 2]


def test_rows_say_what_was_chosen_and_by_which_policy() -> None:
    rows = steps_of(collect(corridor(length=3), steps=3)[0])
    assert set(rows["action"].tolist()) == {1}
    assert set(rows["log_probability"].tolist()) == {-0.5}
    assert set(rows["policy_version"].tolist()) == {3}


def test_cart_poles_own_vectorisation_resets_in_the_same_way() -> None:
    rows, episodes = collect(EnvironmentConfig(id="CartPole-v1", num_envs=3), steps=60)
    assert len(episodes) >= 6
    for episode in range(3 + len(episodes)):
        own = rows[rows["episode_id"] == episode]
        if not len(own):
            continue
        assert own["step"].tolist() == list(range(len(own)))
        assert own["kind"].tolist() == [STEP] * (len(own) - 1) + [CLOSING]
        assert np.abs(own["observation"][0]).max() <= 0.05  # a start is near zero
        assert not own["terminated"][:-2].any()
        if own["terminated"][-2]:
            last = own["observation"][-1]
            assert abs(last[0]) > 2.4 or abs(last[2]) > 0.2
    lengths = sorted(episode.length for episode in episodes)
    ended = rows[rows["terminated"]]
    assert sorted((ended["step"] + 1).tolist()) == lengths
    assert [episode.episode_return for episode in episodes] == [e.length for e in episodes]


def test_the_seed_decides_what_is_seen() -> None:
    environment = EnvironmentConfig(id="CartPole-v1", num_envs=3)
    one, two = (collect(environment, steps=10)[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
