"""What the pages are made of, without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from fake_services import (
    FakePolicies,
    FakeTrainer,
    RecordedRun,
    serving,
    training_run,
    tuning_run,
)

from services.feedback.app import charts
from services.feedback.app.acting import Choice, Stage
from services.feedback.app.run_history import (
    SPEED,
    Publication,
    RunHistory,
    running_means,
    thinned,
)
from tutelage import Client
from tutelage.v1 import training_pb2
from tutelage.v1.policy_pb2 import ActionSpace

SPACE = ActionSpace(n=2, names=["left", "right"])
STABLE = Choice("cartpole", SPACE, version=0, alias="stable", sample=False, temperature=1.0)


def test_running_means_by_hand() -> None:
    assert running_means([], 3) == []
    assert running_means([3, 5, 10, 0, 2], 3) == [3, 4, 6, 5, 4]


@pytest.mark.parametrize(
    ("count", "most", "kept"),
    [(0, 3, []), (3, 3, [0, 1, 2]), (5, 3, [0, 2, 4]), (101, 2, [0, 100])],
)
def test_thinning_keeps_both_ends(count: int, most: int, kept: list[int]) -> None:
    assert thinned(count, most) == kept


def test_a_history_takes_each_event_once() -> None:
    events = training_run().events
    history = RunHistory()
    history.add(events[:100])
    history.add(events[50:])
    assert history.last_sequence == len(events)
    assert [e.episode for e in history.episodes] == list(range(1, 401))
    assert set(history.metrics) == {"loss", "epsilon", "q_mean", SPEED}
    assert len(history.metrics["loss"]) == 100


def test_publications_lie_at_the_evaluation_before_them() -> None:
    history = RunHistory()
    published = training_pb2.RunEvent(
        sequence=1, policy_published=training_pb2.PolicyPublished(version=1)
    )
    history.add([published])
    assert history.publications == [Publication(1, 0, None)]
    history = RunHistory()
    history.add(training_run().events)
    assert [p.version for p in history.publications] == [1, 2]
    steps = [e.env_steps for e in history.evaluations]
    assert [p.env_steps for p in history.publications] == steps[1:3]


def test_what_is_told_of_steps_that_are_taken_again_is_forgotten() -> None:
    history = RunHistory()
    recorded = training_run()
    history.add(recorded.events)
    at = history.evaluations[1].env_steps
    begun = training_pb2.TrainingBegun(env_steps=at, episodes=200)
    recorded.add(training_begun=begun)
    history.add(recorded.events)
    assert [e.episode for e in history.episodes] == list(range(1, 201))
    assert [e.env_steps for e in history.evaluations][1:] == [at]
    assert history.metrics["loss"][-1][0] <= at
    assert [p.version for p in history.publications] == [1, 2]  # they are there


def test_time_at_work_is_counted_without_the_time_between() -> None:
    history = RunHistory()
    recorded = RecordedRun(training_pb2.Run())
    for second, status in enumerate(
        (
            training_pb2.RUN_STATUS_RUNNING,
            training_pb2.RUN_STATUS_STOPPED,
            training_pb2.RUN_STATUS_QUEUED,
            training_pb2.RUN_STATUS_RUNNING,
            training_pb2.RUN_STATUS_SUCCEEDED,
        )
    ):
        recorded.add(status_changed=training_pb2.RunStatusChanged(status=status))
        recorded.events[-1].time.seconds = 10 * second
    history.add(recorded.events)
    assert history.worked_s == 20


def test_accuracy_can_be_drawn_with_data_and_without() -> None:
    history = RunHistory()
    for events in ([], tuning_run().events):
        history.add(events)
        assert charts.accuracy_chart(history.fits).to_dict()["layer"]
    fits = RunHistory()
    fits.add(tuning_run().events)
    circles = charts.reliability_chart(fits.fits[-1]).to_dict()
    assert any(len(rows) == 5 for rows in circles["datasets"].values())


@pytest.fixture
def policies() -> FakePolicies:
    return FakePolicies()


@pytest.fixture
def client(policies: FakePolicies) -> Iterator[Client]:
    with serving(FakeTrainer(), policies) as address, Client(address) as client:
        yield client


def test_each_frame_is_one_act_call(client: Client, policies: FakePolicies) -> None:
    stage = Stage("CartPole-v1", seed=3)
    frames = [stage.step(client, STABLE) for _ in range(5)]
    assert policies.calls == 5
    assert [frame.step for frame in frames] == [1, 2, 3, 4, 5]
    assert frames[-1].episode_return == 5
    assert {frame.version for frame in frames} == {2}
    for frame in frames:
        assert sum(bar.share for bar in frame.bars) == pytest.approx(1)
        (chosen,) = (bar for bar in frame.bars if bar.chosen)
        assert chosen.share == max(bar.share for bar in frame.bars)
    assert stage.latency_ms(0.99) >= stage.latency_ms(0.5) > 0
    stage.close()


def test_the_next_episode_begins_by_itself(client: Client, policies: FakePolicies) -> None:
    stage = Stage("CartPole-v1", seed=3)
    steps = [stage.step(client, STABLE).step for _ in range(501)]
    assert steps[499:] == [500, 1]
    assert stage.episodes == 2
    stage.close()


class Restricted(gymnasium.Wrapper):
    """Allows action 0 at an episode's start, and 1 from then on."""

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return observation, {**info, "action_mask": np.array([1, 0], np.int8)}

    def step(self, action):
        *step, info = super().step(action)
        return *step, {**info, "action_mask": np.array([0, 1], np.int8)}


@pytest.mark.parametrize("masked", [True, False])
def test_a_policy_that_takes_masks_is_told_what_is_allowed(
    masked: bool, client: Client, policies: FakePolicies, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = gymnasium.make
    monkeypatch.setattr(
        gymnasium, "make", lambda *args, **kwargs: Restricted(make(*args, **kwargs))
    )
    stage = Stage("CartPole-v1", seed=3)
    for _ in range(2):
        stage.step(client, replace(STABLE, masked=masked))
    stage.close()
    assert policies.masks == ([[True, False], [False, True]] if masked else [[], []])


def test_an_environment_that_is_not_known_is_refused() -> None:
    with pytest.raises(gymnasium.error.Error):
        Stage("NoSuchThing-v0", seed=0)
