"""Which policies are published, and what `stable` and the end of a run follow from.

The environment pays the number of the action, so that a policy's return is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch

from services.common.registry import PolicyRegistry
from services.common.spec import Distribution, ObservationSpace, PolicySpec
from services.trainer.actor_critic import ActorCritic
from services.trainer.config import ActorCriticNetworkConfig, DQNRun, QNetworkConfig, RLHFRun, parse
from services.trainer.evaluate import Greedy
from services.trainer.networks import QNetwork
from services.trainer.published import PublishedPolicy
from services.trainer.publishing import (
    KEPT_CANDIDATES,
    CandidateKeeper,
    Identity,
    Publisher,
    greedy,
)
from services.trainer.resources import Resources
from services.trainer.runs.history import HistoryReader, HistoryWriter
from services.trainer.runs.session import RunSession
from tutelage.v1 import training_pb2 as pb

ACTIONS = 101
ACTOR_CRITIC = ActorCriticNetworkConfig(hidden=(8,))
NETWORK = QNetworkConfig(hidden=(2,))
SPEC = PolicySpec(
    environment="Pays-v0",
    observation=ObservationSpace(dtype="float32", shape=(1,)),
    actions=ACTIONS,
    distribution=Distribution.Q_VALUES,
)


class Pays(gym.Env[np.ndarray, np.int64]):
    """One step, whose reward is the action's number less its tax."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(ACTIONS)
    taxes: ClassVar[dict[int, float]] = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action: np.int64) -> Any:
        reward = float(action) - self.taxes.get(int(action), 0.0)
        return np.zeros(1, np.float32), reward, True, False, {}


gym.register("Pays-v0", Pays)


def always(action: int) -> QNetwork:
    """A network that prefers one action everywhere."""
    network = QNetwork(SPEC, NETWORK)
    with torch.no_grad():
        network.head.weight.mul_(1e-3)
        network.head.bias.copy_(torch.eye(ACTIONS)[action])
    return network


def config(algorithm: str = "dqn", **evaluation: object) -> Any:
    settings = {"episodes": 3, "confirm_episodes": 4, "publish_margin": 0.2, "disturbance": 0.0}
    content = {
        "algorithm": algorithm,
        "policy": "pays",
        "environment": {"id": "Pays-v0"},
        "evaluation": settings | evaluation,
    }
    return parse(content, "test")


class Rig:
    """A session, a repository, and what both have been told."""

    def __init__(self, folder: Path) -> None:
        self._history = folder / "history.jsonl"
        self.writer = HistoryWriter(self._history)
        self.session = RunSession(self.writer)
        self.registry = PolicyRegistry(str(folder / "policies"))
        self.resources = Resources(
            redis_url="redis://127.0.0.1:1",
            registry=self.registry,
            feedback_address="127.0.0.1:1",
            reward_models=folder / "reward_models",
            git_commit="c0ffee",
        )

    def publisher(self, settings: DQNRun, run_id: str = "run-1") -> Publisher:
        identity = Identity(run_id, settings.algorithm, SPEC)
        generator = np.random.default_rng(0)
        return Publisher(self.session, settings, identity, self.resources, generator)

    def events(self, kind: str) -> list[Any]:
        read = HistoryReader(self._history).read()
        return [getattr(event, kind) for event in read if event.WhichOneof("event") == kind]

    @property
    def returns(self) -> list[float]:
        """Mean returns of the published versions."""
        versions = self.registry.versions("pays")
        return [self.registry.manifest("pays", v).evaluation.mean_return for v in versions]

    @property
    def stable(self) -> int:
        return self.registry.aliases("pays")["stable"].version


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    found = Rig(tmp_path)
    yield found
    found.writer.close()


def consider(publisher: Publisher, action: int, env_steps: int) -> bool:
    network = always(action)
    return publisher.consider(network, greedy(network), env_steps)


# --- Publisher -------------------------------------------------------------------


def test_a_version_is_published_when_it_beats_the_last_by_a_share_of_the_range(rig: Rig) -> None:
    publisher = rig.publisher(config())
    # After 10, the range is nothing; 11 beats it by more than 0.2 · (11 - 10). Then the range
    # grows: to beat 50 takes more than a fifth of what lies between it and 10 above it.
    for step, action in enumerate((10, 10, 11, 5, 50, 58, 61, 40, 61, 80)):
        assert consider(publisher, action, 100 * step) is False
    assert rig.returns == [10, 11, 50, 80]
    assert rig.stable == 4
    published = rig.events("policy_published")
    assert [(p.version, p.alias) for p in published] == [(v, "stable") for v in (1, 2, 3, 4)]
    evaluated: list[pb.PolicyEvaluated] = rig.events("policy_evaluated")
    assert [e.mean_return for e in evaluated] == [10, 10, 11, 5, 50, 58, 61, 40, 61, 80]
    assert {e.episodes for e in evaluated} == {3}


def test_what_is_published_says_where_it_came_from_and_acts_as_it_was_judged(rig: Rig) -> None:
    consider(rig.publisher(config(), "run-7"), 42, 1234)
    policy = PublishedPolicy(rig.registry, "pays", "stable")
    assert policy.greedy(np.zeros((2, 1), np.float32)).tolist() == [42, 42]
    manifest = policy.manifest
    assert (manifest.run_id, manifest.algorithm, manifest.env_steps) == ("run-7", "dqn", 1234)
    assert (manifest.git_commit, manifest.reward_model_version) == ("c0ffee", 0)
    assert manifest.evaluation.episodes == 3
    assert list(manifest.files) == ["weights.safetensors"]
    assert manifest.observations is not None
    assert len(manifest.observations.mean) == len(manifest.observations.std) == 1
    assert manifest.observations.count == 3  # episodes of one step


def test_a_policy_without_action_values_is_published_without_weights(rig: Rig) -> None:
    spec = SPEC.model_copy(update={"distribution": Distribution.LOGITS})
    network, settings = ActorCritic(spec, ACTOR_CRITIC).policy(), config("ppo")
    identity, generator = Identity("run-1", "ppo", spec), np.random.default_rng(0)
    publisher = Publisher(rig.session, settings, identity, rig.resources, generator)
    publisher.consider(network, greedy(network), 1)
    assert rig.registry.manifest("pays", 1).files == {}


def test_stable_never_moves_to_a_version_that_returns_less(rig: Rig) -> None:
    consider(rig.publisher(config(), "run-1"), 60, 1)
    later = rig.publisher(config(), "run-2")
    consider(later, 20, 1)
    assert (rig.returns, rig.stable) == ([60, 20], 1)
    assert rig.events("policy_published")[-1].alias == ""
    consider(later, 60, 2)  # as good as the present one
    assert (rig.returns, rig.stable) == ([60, 20, 60], 3)
    assert rig.registry.aliases("pays")["stable"].previous == (1,)


def test_beyond_the_goal_a_little_less_return_does_not_keep_stable_back(rig: Rig) -> None:
    consider(rig.publisher(config(goal_return=50, confirmations=9), "run-1"), 60, 1)
    later = rig.publisher(config(goal_return=50, confirmations=9), "run-2")
    consider(later, 49, 1)
    assert rig.stable == 1
    consider(later, 55, 2)
    assert (rig.returns, rig.stable) == ([60, 49, 55], 3)


def test_stable_stays_with_what_people_have_taught(rig: Rig) -> None:
    settings = config()
    identity = Identity("run-1", settings.algorithm, SPEC, reward_model_version=2)
    generator = np.random.default_rng(0)
    consider(Publisher(rig.session, settings, identity, rig.resources, generator), 40, 1)
    consider(rig.publisher(settings, "run-2"), 60, 1)
    assert (rig.returns, rig.stable) == ([40, 60], 1)
    assert "tutelage promote pays 2" in rig.events("message")[-1].text
    tuned = Identity("run-3", settings.algorithm, SPEC, reward_model_version=3)
    consider(Publisher(rig.session, settings, tuned, rig.resources, generator), 50, 1)
    assert rig.stable == 3


def test_a_goal_that_is_confirmed_as_often_as_asked_ends_the_run(rig: Rig) -> None:
    publisher = rig.publisher(config(goal_return=50, confirmations=3))
    assert [consider(publisher, action, action) for action in (20, 55, 30, 60, 50)] == [
        False, False, False, False, True,
    ]  # fmt: skip
    episodes = [e.episodes for e in rig.events("policy_evaluated")]
    assert episodes == [3, 3, 4, 3, 3, 4, 3, 4]


def test_beyond_the_goal_what_stands_disturbance_better_is_published(rig: Rig) -> None:
    publisher = rig.publisher(config(goal_return=50, confirmations=9))
    network = always(95)
    exact, calls = greedy(network), 0

    def act(observations: np.ndarray) -> np.ndarray:
        """As good as can be, until the third evaluation, which is the disturbed one."""
        nonlocal calls
        calls += 1
        return exact(observations) if calls < 3 else exact(observations) - 70

    fragile: Greedy = act
    publisher.consider(network, fragile, 1)
    for step, action in enumerate((55, 20, 52, 60), start=2):
        consider(publisher, action, step)
    # The 95 stands as 25; what returns less but stands more is better, and 20 never is.
    assert rig.returns == [95, 55, 60]


def test_a_goal_that_fresh_episodes_do_not_confirm_is_not_reached(rig: Rig) -> None:
    publisher = rig.publisher(config(goal_return=50, confirmations=1))
    network = always(60)
    exact, calls = greedy(network), 0

    def act(observations: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return exact(observations) if calls == 1 else exact(observations) - 50

    lucky: Greedy = act
    assert publisher.consider(network, lucky, 1) is False
    # It is published for what the fresh episodes showed.
    assert rig.returns == [10]


def test_a_publisher_goes_on_from_its_state(rig: Rig) -> None:
    settings = config(goal_return=80, confirmations=2)
    first = rig.publisher(settings)
    for action in (10, 30, 85):
        consider(first, action, action)
    second = rig.publisher(settings)
    second.restore(first.state())
    assert second.state() == first.state()
    assert consider(second, 40, 100) is False  # worse than what is published
    assert rig.returns == [10, 30, 85]
    assert consider(second, 85, 200) is True  # the second confirmation


def test_evaluations_begin_in_the_same_states_where_asked_but_confirm_in_fresh_ones(
    rig: Rig,
) -> None:
    settings = config(goal_return=50, confirmations=9, same_starts=True)
    seen = list[list[float]]()

    def consider_seeing(publisher: Publisher) -> None:
        network = always(60)
        exact = greedy(network)

        def act(observations: np.ndarray) -> np.ndarray:
            seen.append(observations[:, 0].tolist())
            return exact(observations)

        publisher.consider(network, act, len(seen))

    first, second = rig.publisher(settings), rig.publisher(settings)
    consider_seeing(first)
    consider_seeing(first)
    assert [len(starts) for starts in seen] == [3, 4, 4, 3, 4, 4]
    judged, again, fresh = seen[0], seen[3], seen[1] + seen[2] + seen[4] + seen[5]
    assert again == judged
    assert not set(judged) & set(fresh)
    second.restore(first.state())
    consider_seeing(second)
    assert seen[6] == judged
    seen.clear()
    anew = rig.publisher(config())
    consider_seeing(anew)
    consider_seeing(anew)
    assert seen[0] != seen[1]


def test_a_fresh_publishers_state_is_plain_data(rig: Rig) -> None:
    fresh = rig.publisher(config())
    state = fresh.state()
    assert not any(isinstance(v, float) and not math.isfinite(v) for v in state.values())
    assert state == {"published": [None, None], "lowest": None, "confirmed": 0, "starts": None}
    other = rig.publisher(config())
    other.restore(state)
    assert other.state() == state
    consider(other, 3, 1)
    assert rig.returns == [3]


# --- CandidateKeeper -------------------------------------------------------------


def keeper(rig: Rig, min_return: float, liked: dict[int, float]) -> CandidateKeeper:
    """Candidates whose learned reward is looked up by their action."""

    def learned(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.array([liked.get(int(a), 0.0) for a in actions], np.float32)

    settings = config("dqn-rlhf").model_copy(update={"min_return": min_return})
    assert isinstance(settings, RLHFRun)
    return CandidateKeeper(rig.session, settings, learned, np.random.default_rng(0))


def offer(judge: CandidateKeeper, *actions: int) -> None:
    for step, action in enumerate(actions):
        network = always(action)
        assert judge.consider(network, greedy(network), step) is False


def action_of(network: torch.nn.Module) -> int:
    return int(greedy(network)(np.zeros((1, 1), np.float32))[0])


def test_the_candidate_that_people_like_best_is_kept_if_it_does_its_task(rig: Rig) -> None:
    judge = keeper(rig, min_return=20, liked={10: 9.0, 30: 3.0, 40: 5.0, 50: 1.0})
    offer(judge, 10, 30, 40, 50)
    best = judge.confirm_best(seed=0)
    assert best is not None
    assert (action_of(best.network), best.learned_reward, best.env_steps) == (40, 5.0, 2)
    assert best.judged.summary.episodes == 4  # the fresh ones
    evaluated = rig.events("policy_evaluated")
    assert [e.mean_learned_reward for e in evaluated] == [9, 3, 5, 1, 5]


def test_when_the_best_fails_on_fresh_episodes_the_next_is_taken(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = keeper(rig, min_return=20, liked={30: 3.0, 40: 5.0, 50: 1.0})
    offer(judge, 30, 40, 50)
    monkeypatch.setattr(Pays, "taxes", {40: 39.0})
    best = judge.confirm_best(seed=0)
    assert best is not None
    assert action_of(best.network) == 30
    monkeypatch.setattr(Pays, "taxes", {40: 39.0, 30: 29.0, 50: 49.0})
    assert judge.confirm_best(seed=0) is None


def test_without_a_candidate_that_does_its_task_there_is_none(rig: Rig) -> None:
    judge = keeper(rig, min_return=20, liked={10: 9.0})
    assert judge.confirm_best(seed=0) is None
    offer(judge, 10, 19)
    assert judge.confirm_best(seed=0) is None
    offer(judge, 20)  # just enough
    assert judge.confirm_best(seed=0) is not None


def test_the_best_are_kept_however_many_come(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = [23, 29, 21, 28, 25, 27, 22, 26, 24]
    judge = keeper(rig, min_return=20, liked={a: float(a) for a in actions})
    offer(judge, *actions)
    for _ in range(KEPT_CANDIDATES):
        best = judge.confirm_best(seed=0)
        assert best is not None
        monkeypatch.setattr(Pays, "taxes", Pays.taxes | {action_of(best.network): 50.0})
    assert sorted(Pays.taxes, reverse=True) == sorted(actions, reverse=True)[:KEPT_CANDIDATES]
    assert judge.confirm_best(seed=0) is None


def test_what_is_kept_does_not_change_as_the_network_learns_on(rig: Rig) -> None:
    judge = keeper(rig, min_return=20, liked={30: 3.0})
    network = always(30)
    judge.consider(network, greedy(network), 1)
    with torch.no_grad():
        network.head.bias.copy_(torch.eye(ACTIONS)[5])
    judge.consider(network, greedy(network), 2)
    best = judge.confirm_best(seed=0)
    assert best is not None
    assert action_of(best.network) == 30
    assert [action_of(snapshot) for snapshot in judge.snapshots] == [30, 5]
