"""Updates in step with rows: how many, of what, and what becomes of their errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_rig import dqn_config, learn_dqn
from test_experience import filled

from services.common.replay import MirrorReplay, Prioritized, ReplayStore, Sampling
from services.common.replay.local import LocalReplay
from services.trainer.algorithms.dqn import Update
from services.trainer.experience import Experience
from services.trainer.learning import DrawnBatches, Moment
from services.trainer.resources import Resources

NOW = Moment(share_done=0.25, epsilon=0.4)


class Listener:
    """A learner that only listens; its TD error is what was observed."""

    def __init__(self) -> None:
        self.heard: list[tuple[Experience, float]] = []

    def update(self, experience: Experience, epsilon: float) -> Update:
        self.heard.append((experience, epsilon))
        return Update(torch.from_numpy(experience.observation[:, 0].copy()), {})


def drawn(**changes: Any) -> tuple[DrawnBatches, Listener]:
    listener = Listener()
    config = dqn_config("ProbeReward-v0", **{"batch_size": 4, **changes}).dqn
    return DrawnBatches(listener, config), listener  # type: ignore[arg-type]


def replay(prioritized: bool = False) -> LocalReplay:
    sampler = {"sampler": Prioritized(alpha=1.0, beta=0.4)} if prioritized else {}
    return filled(Sampling(np.random.default_rng(0), **sampler))


def test_an_update_is_made_for_every_so_many_rows() -> None:
    learning, listener = drawn(env_steps_per_update=2)
    for rows, updates in ((1, 0), (1, 1), (5, 3), (1, 4)):
        learning.take(rows, replay(), NOW)
        assert len(listener.heard) == updates
    learning.take(1, replay(), NOW)
    resumed, listener = drawn(env_steps_per_update=2)
    resumed.restore(learning.state())
    resumed.take(1, replay(), NOW)
    assert len(listener.heard) == 1


def test_sarsa_learns_from_what_was_done_next_and_the_others_do_not_ask() -> None:
    for bootstrap, asks in (("sarsa", True), ("double", False), ("expected-sarsa", False)):
        learning, listener = drawn(bootstrap=bootstrap, env_steps_per_update=1)
        learning.take(1, replay(), NOW)
        experience, epsilon = listener.heard[0]
        assert (experience.next_action is not None) is asks
        assert (len(experience.observation), epsilon) == (4, 0.4)


@pytest.mark.parametrize("bootstrap", ["double", "sarsa"])
def test_errors_become_priorities_and_beta_rises(bootstrap: str) -> None:
    learning, listener = drawn(
        bootstrap=bootstrap,
        env_steps_per_update=1,
        batch_size=200,
        priorities={"importance_sampling_exponent": 0.4, "final_importance_sampling_exponent": 0.8},
    )
    held = replay(prioritized=True)
    learning.take(1, held, NOW)
    assert held.beta == pytest.approx(0.5)
    learning.take(1, held, NOW)
    experience, _ = listener.heard[1]
    observed = experience.observation[:, 0]
    # All of 0, 1, 2, 10, 11, 20 and 21 were seen at first; then in proportion to their number.
    assert (observed == 0).mean() < 0.02
    assert (observed == 21).mean() == pytest.approx(21 / 65, abs=0.01)
    assert experience.weights is not None
    assert experience.weights.min() < 0.5


def test_without_priorities_nothing_weighs_more() -> None:
    learning, listener = drawn(env_steps_per_update=1)
    learning.take(1, replay(), NOW)
    assert listener.heard[0][0].weights is None


def test_priorities_are_there_when_a_run_goes_on(resources: Resources, tmp_path: Path) -> None:
    config = dqn_config("ProbeCredit-v0", priorities={})
    config = config.model_copy(
        update={"checkpoint": config.checkpoint.model_copy(update={"period": 480})}
    )
    learner = learn_dqn(config, resources, tmp_path)
    name = f"probe-{tmp_path.name}"
    store = ReplayStore.open_existing(resources.redis, name)
    mirror = MirrorReplay(store, Sampling(np.random.default_rng(0), Prioritized()))
    mirror.sync()
    assert mirror._prioritized is not None
    priorities = mirror._prioritized.priorities[0]
    # What was learnt well has a small error, so its priority is far below a new row's.
    assert np.median(priorities[priorities > 0]) < 0.1
    assert learner.updates > 200
