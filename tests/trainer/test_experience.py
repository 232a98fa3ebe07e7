"""Batches of a replay made ready for learners, by hand."""

from __future__ import annotations

import numpy as np

from services.common.replay import Field, MemoryReplay, Prioritized, ReplaySchema, Sampling
from services.common.replay.fragments import assemble
from services.trainer.experience import Experience, from_stretches, from_transitions

GAMMA = 0.5
# Three steps that end by termination, two that are cut short, two that go on.
EPISODES = ((0, 3, "terminated"), (1, 2, "truncated"), (2, 2, ""))


def filled(sampling: Sampling) -> MemoryReplay:
    """Step t of episode e: observes 10·e + t, does t mod 2, is paid 1 + t."""
    schema = ReplaySchema.transitions((1,), "float32")
    replay = MemoryReplay(schema, 100, sampling)
    for episode, length, end in EPISODES:
        rows, reached = schema.empty(length), schema.empty(length)
        rows["step"], rows["episode_id"] = np.arange(length), episode
        rows["observation"][:, 0] = 10 * episode + rows["step"]
        reached["observation"][:, 0] = rows["observation"][:, 0] + 1
        rows["action"], rows["reward"] = rows["step"] % 2, 1 + rows["step"]
        if end:
            rows[end][-1] = True
        replay.append(assemble(schema, rows, reached, np.zeros(length, np.int64)))
    return replay


def of_each_step(experience: Experience) -> dict[int, list[float]]:
    """By what was observed: action, reward, discount, observed next, action next."""
    assert experience.next_action is not None
    columns = (
        experience.action,
        experience.reward,
        experience.discount,
        experience.next_observation[:, 0],
        experience.next_action,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {int(o): list(row) for o, row in zip(experience.observation[:, 0], rows, strict=True)}


def test_one_step_and_what_was_done_after_it() -> None:
    replay = filled(Sampling(np.random.default_rng(0)))
    found = of_each_step(from_stretches(replay.sample_sequences(200, 2), GAMMA))
    assert found == {
        0: [0, 1, 0.5, 1, 1],
        1: [1, 2, 0.5, 2, 0],
        2: [0, 3, 0, 3, -1],  # terminated: worth nothing more
        10: [0, 1, 0.5, 11, 1],
        11: [1, 2, 0.5, 12, -1],  # cut short: goes on, but nobody saw how
        20: [0, 1, 0.5, 21, 1],
        21: [1, 2, 0.5, 22, -1],  # the newest step
    }


def test_two_steps_and_what_was_done_after_them() -> None:
    replay = filled(Sampling(np.random.default_rng(0)))
    found = of_each_step(from_stretches(replay.sample_sequences(200, 3), GAMMA))
    assert found == {
        0: [0, 2, 0.25, 2, 0],  # 1 + 0.5·2
        1: [1, 3.5, 0, 3, -1],  # 2 + 0.5·3, then terminated
        2: [0, 3, 0, 3, -1],
        10: [0, 2, 0.25, 12, -1],
        11: [1, 2, 0.5, 12, -1],
        20: [0, 2, 0.25, 22, -1],
        21: [1, 2, 0.5, 22, -1],
    }


def test_without_the_next_action_it_is_what_the_replay_gives() -> None:
    replay = filled(Sampling(np.random.default_rng(0), n_step=2, discount=GAMMA))
    experience = from_transitions(replay.sample(200))
    assert experience.next_action is None
    assert experience.weights is None
    same = filled(Sampling(np.random.default_rng(0)))
    expected = of_each_step(from_stretches(same.sample_sequences(200, 3), GAMMA))
    for i, observed in enumerate(experience.observation[:, 0].tolist()):
        action, reward, discount, following, _ = expected[int(observed)]
        assert experience.action[i] == action
        assert experience.reward[i] == reward
        assert experience.discount[i] == discount
        assert experience.next_observation[i, 0] == following


def test_weights_are_those_of_the_priorities() -> None:
    replay = filled(Sampling(np.random.default_rng(0), Prioritized(alpha=1.0, beta=1.0)))
    batch = replay.sample(7)
    replay.update_priorities(batch.index, np.where(batch.observation[:, 0] == 0, 3.0, 1.0))
    transitions = from_transitions(replay.sample(100), weighted=True)
    stretches = from_stretches(replay.sample_sequences(100, 2), GAMMA, weighted=True)
    for experience in (transitions, stretches):
        first = experience.observation[:, 0] == 0
        assert experience.weights is not None
        np.testing.assert_allclose(experience.weights[first], 1 / 3, rtol=1e-4)
        np.testing.assert_allclose(experience.weights[~first], 1, rtol=1e-4)


def test_masks_are_those_of_the_state_reached() -> None:
    schema = ReplaySchema.transitions((1,), "float32", extras=(Field("action_mask", "bool", (3,)),))
    replay = MemoryReplay(schema, 100, Sampling(np.random.default_rng(0), n_step=2, discount=GAMMA))
    rows, reached = schema.empty(3), schema.empty(3)
    rows["step"] = np.arange(3)
    states = np.arange(4)
    flags = states[:, None] == np.arange(1, 4)  # in state i action i - 1 is allowed
    for taken, part in ((rows, slice(0, 3)), (reached, slice(1, 4))):
        taken["observation"][:, 0], taken["action_mask"] = states[part], flags[part]
    rows["terminated"][-1] = True
    replay.append(assemble(schema, rows, reached, np.zeros(3, np.int64)))
    by_steps = from_transitions(replay.sample(50))
    by_stretches = from_stretches(replay.sample_sequences(50, 3), GAMMA)
    for experience in (by_steps, by_stretches):
        assert experience.next_mask is not None
        allowed = experience.next_mask.argmax(axis=1) + 1
        assert allowed.tolist() == experience.next_observation[:, 0].tolist()
        assert experience.next_mask.sum(axis=1).tolist() == [1] * 50
