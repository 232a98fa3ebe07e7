"""Reward models from made-up preferences, whose utility is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from services.common.errors import DataCorrupted, NotFound, PreconditionFailed
from services.trainer.config import RewardConfig
from services.trainer.reward.ensemble import RewardEnsemble
from services.trainer.reward.fitting import Report, fit, predict
from services.trainer.reward.preferences import (
    LEFT,
    RIGHT,
    TIE,
    PreferenceData,
    from_messages,
)
from services.trainer.reward.store import RewardModelStore
from tutelage.v1 import feedback_pb2 as pb

SEGMENTS, STEPS = 60, 20
CONFIG = RewardConfig(members=3)


def segments() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, actions, and what each segment is secretly worth: how near x is to 1."""
    generator = np.random.default_rng(0)
    x = generator.uniform(-2, 2, SEGMENTS)[:, None] + generator.normal(0, 0.2, (SEGMENTS, STEPS))
    noise = generator.normal(size=(SEGMENTS, STEPS, 3))
    observations = np.concatenate([x[..., None], noise], axis=2).astype(np.float32)
    actions = generator.integers(0, 2, (SEGMENTS, STEPS))
    return observations, actions, -np.abs(x - 1).mean(axis=1)


def preferences(labels: str = "honest", pairs: int = 400, seed: int = 1) -> PreferenceData:
    """Pairs, a third of them held out, judged by the utility or in another way."""
    generator = np.random.default_rng(seed)
    observations, actions, utility = segments()
    left, right = generator.integers(0, SEGMENTS, (2, pairs))
    difference = utility[left] - utility[right]
    outcome = np.where(difference > 0, LEFT, RIGHT)
    if labels == "with ties":
        outcome[np.abs(difference) < 0.3] = TIE
    elif labels == "random":
        outcome = generator.integers(0, 2, pairs)
    elif labels == "ties alone":
        outcome[:] = TIE
    return PreferenceData(
        observations=observations,
        actions=actions,
        mask=np.ones(actions.shape, bool),
        left=left,
        right=right,
        outcome=outcome,
        held_out=np.arange(pairs) % 3 == 0,
    )


def fitted(data: PreferenceData, config: RewardConfig = CONFIG) -> tuple[RewardEnsemble, Report]:
    return fit(data, 2, config, np.random.default_rng(0))


def test_a_utility_is_found_from_preferences() -> None:
    ensemble, report = fitted(preferences())
    assert report.accuracy > 0.85
    assert report.passes(CONFIG)
    assert (report.train_preferences, report.held_out_preferences) == (266, 134)
    assert report.accuracy_interval[0] < report.accuracy <= report.accuracy_interval[1]
    assert report.log_loss < math.log(2)
    assert sum(b.count for b in report.bins) == 134
    x = np.array([[-1.5, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.float32)
    rewards = ensemble.reward(x, np.zeros(3, np.int64))
    assert rewards.tolist() == sorted(rewards.tolist())


@pytest.mark.parametrize("labels", ["random", "ties alone"])
def test_labels_that_say_nothing_do_not_pass(labels: str) -> None:
    _, report = fitted(preferences(labels))
    assert not report.passes(CONFIG)
    assert report.accuracy < CONFIG.min_accuracy


def test_without_held_out_preferences_nothing_passes() -> None:
    data = preferences()
    _, report = fitted(
        PreferenceData(**{**vars(data), "held_out": np.zeros(len(data.outcome), bool)})
    )
    assert not report.passes(CONFIG)
    assert report.held_out_preferences == 0


def test_with_held_out_preferences_alone_nothing_can_be_fitted() -> None:
    data = preferences()
    with pytest.raises(PreconditionFailed, match="held out"):
        fitted(PreferenceData(**{**vars(data), "held_out": np.ones(len(data.outcome), bool)}))


def test_ties_are_learnt_as_ties() -> None:
    data = preferences("with ties")
    assert (data.outcome == TIE).mean() > 0.1
    ensemble, report = fitted(data)
    assert report.accuracy > 0.9
    probabilities = predict(ensemble, data, np.arange(len(data.outcome)))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    tied = data.outcome == TIE
    assert probabilities[tied, TIE].mean() > 1.5 * probabilities[~tied, TIE].mean()


def test_the_same_generator_gives_the_same_model() -> None:
    data = preferences()
    one, two = fitted(data)[0].state_dict(), fitted(data)[0].state_dict()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_what_is_not_a_step_counts_nothing() -> None:
    data = preferences()
    mask = data.mask.copy()
    mask[:, 10:] = False
    garbage = data.observations.copy()
    garbage[:, 10:] = 1e6
    short = PreferenceData(**{**vars(data), "mask": mask})
    same = PreferenceData(**{**vars(data), "mask": mask, "observations": garbage})
    one, two = fitted(short)[0].state_dict(), fitted(same)[0].state_dict()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_rewards_over_the_segments_are_normalised() -> None:
    data = preferences()
    ensemble, _ = fitted(data)
    rewards = ensemble.reward(data.observations.reshape(-1, 4), data.actions.reshape(-1))
    assert rewards.dtype == np.float32
    assert rewards.mean() == pytest.approx(0, abs=1e-2)  # but for what max_reward cuts off
    assert rewards.std() == pytest.approx(1, abs=2e-2)


def test_pessimism_takes_off_what_members_disagree_on() -> None:
    ensemble, _ = fitted(preferences(), CONFIG.model_copy(update={"max_reward": 1e6}))
    x = np.array([[1, 0, 0, 0], [40, 40, 40, 40]], np.float32)  # known, and far from it
    actions = np.zeros(2, np.int64)
    taken = ensemble.reward(x, actions) - ensemble.reward(x, actions, pessimism=1.0)
    assert taken[1] > taken[0] > 0


def test_members_that_differ_by_a_constant_do_not_disagree() -> None:
    data = preferences()
    ensemble, _ = fitted(data, CONFIG.model_copy(update={"max_reward": 1e6}))
    x, actions = data.observations.reshape(-1, 4), data.actions.reshape(-1)
    before = ensemble.reward(x, actions, pessimism=1.0)
    with torch.no_grad():
        ensemble.layers[-1].bias += 100 * torch.arange(CONFIG.members).reshape(-1, 1, 1)
    ensemble.normalise(torch.from_numpy(x), torch.from_numpy(actions))
    np.testing.assert_allclose(ensemble.reward(x, actions, pessimism=1.0), before, atol=1e-2)


def test_rewards_far_from_what_was_seen_are_kept_within_bounds() -> None:
    ensemble, _ = fitted(preferences(), CONFIG.model_copy(update={"max_reward": 1.5}))
    x = np.array([[-1e4, 0, 0, 0], [1, 0, 0, 0], [1e4, 1e4, 1e4, 1e4]], np.float32)
    rewards = ensemble.reward(x, np.zeros(3, np.int64))
    assert np.abs(rewards).max() == 1.5
    assert np.abs(rewards).min() < 1.5


def test_rewards_do_not_grow_for_ever_where_labels_end() -> None:
    # Labels that say to go right say so of what they saw, not of what lies further right.
    unbounded = CONFIG.model_copy(update={"max_reward": 1e6})
    ensemble, _ = fitted(preferences(pairs=40), unbounded)
    states = np.zeros((60, 4), np.float32)
    states[:, 0] = np.geomspace(10, 1e6, 60)
    assert np.abs(ensemble.reward(states, np.zeros(60, np.int64))).max() < 10


def test_what_preferences_say_nothing_of_is_kept_out_of_the_reward() -> None:
    x = np.zeros((100, 4), np.float32)
    x[:, 1:] = np.random.default_rng(2).normal(size=(100, 3))  # worth nothing
    actions = np.zeros(100, np.int64)
    spread = [
        fitted(preferences(pairs=100), CONFIG.model_copy(update={"weight_penalty": penalty}))[0]
        .reward(x, actions)
        .std()
        for penalty in (0.0, CONFIG.weight_penalty, 0.01)
    ]
    assert spread[0] > 1.2 * spread[1] > 1.8 * spread[2]


def test_a_single_member_has_nothing_to_disagree_on() -> None:
    ensemble, _ = fitted(preferences(), CONFIG.model_copy(update={"members": 1}))
    x = np.ones((2, 4), np.float32)
    actions = np.zeros(2, np.int64)
    np.testing.assert_array_equal(
        ensemble.reward(x, actions, pessimism=1.0), ensemble.reward(x, actions)
    )


def test_models_are_kept_by_version(tmp_path: Path) -> None:
    store = RewardModelStore(tmp_path)
    ensemble, report = fitted(preferences(), CONFIG.model_copy(update={"epochs": 1}))
    assert [store.save("cartpole", ensemble, report, "run") for _ in range(2)] == [1, 2]
    assert store.save("other", ensemble, report, "run") == 1
    assert store.versions("cartpole") == [1, 2]
    assert store.versions("ghost") == []
    assert store.save("cartpole", ensemble, report, "another run") == 3
    assert [store.version_of("cartpole", run) for run in ("run", "another run")] == [2, 3]
    assert store.version_of("cartpole", "ghost") is None
    assert store.version_of("ghost", "run") is None


def test_a_kept_model_says_the_same(tmp_path: Path) -> None:
    store, config = RewardModelStore(tmp_path), CONFIG.model_copy(update={"epochs": 3})
    ensemble, report = fitted(preferences(), config)
    version = store.save("cartpole", ensemble, report, "run")
    again = store.load("cartpole", version, 2, config)
    observations, actions, _ = segments()
    flat = observations.reshape(-1, observations.shape[-1]), actions.reshape(-1)
    np.testing.assert_array_equal(again.reward(*flat, 0.5), ensemble.reward(*flat, 0.5))
    with pytest.raises(NotFound):
        store.load("cartpole", 9, 2, config)
    with pytest.raises(DataCorrupted, match=r"reward model cartpole/1/model\.safetensors"):
        store.load("cartpole", version, 3, config)
    (tmp_path / "cartpole" / "1" / "model.safetensors").write_bytes(b"half a mod")
    with pytest.raises(DataCorrupted, match=r"reward model cartpole/1/model\.safetensors"):
        store.load("cartpole", version, 2, config)


# --- preferences as they come from the feedback service -------------------------


def segment(name: str, length: int) -> pb.Segment:
    return pb.Segment(
        segment_id=name,
        length=length,
        observation_shape=[2],
        observations=np.arange(2 * length, dtype="<f4").tobytes(),
        actions=np.arange(length, dtype="<i8").tobytes(),
    )


def preference(left: str, right: str, choice: int, split: int = pb.SPLIT_TRAIN) -> pb.Preference:
    return pb.Preference(left_segment_id=left, right_segment_id=right, choice=choice, split=split)


def test_messages_become_arrays() -> None:
    found = from_messages(
        [
            preference("b", "a", pb.CHOICE_LEFT),
            preference("a", "b", pb.CHOICE_RIGHT, pb.SPLIT_HELD_OUT),
            preference("a", "c", pb.CHOICE_SKIP),
            preference("a", "b", pb.CHOICE_TIE),
        ],
        {name: segment(name, length) for name, length in (("a", 2), ("b", 3), ("c", 9))},
    )
    # Segments a and b, in the order of their names; c was only skipped.
    assert found.mask.tolist() == [[True, True, False], [True, True, True]]
    assert found.observations[0].tolist() == [[0, 1], [2, 3], [0, 0]]
    assert found.actions.tolist() == [[0, 1, 0], [0, 1, 2]]
    assert (found.left.tolist(), found.right.tolist()) == ([1, 0, 0], [0, 1, 1])
    assert found.outcome.tolist() == [LEFT, RIGHT, TIE]
    assert found.held_out.tolist() == [False, True, False]


@pytest.mark.parametrize("choices", [[], [pb.CHOICE_SKIP]])
def test_without_a_judgement_there_is_nothing_to_learn(choices: list[int]) -> None:
    with pytest.raises(PreconditionFailed, match="label some pairs first"):
        from_messages([preference("a", "b", choice) for choice in choices], {})
