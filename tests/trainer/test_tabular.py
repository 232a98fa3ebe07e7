"""Tables of action values: each update by hand, and what is learnt against exact solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_solutions import Model, epsilon_greedy
from learning_rig import Indifferent, session_in

from services.common.errors import InvalidConfig
from services.common.registry import PolicyRegistry
from services.common.spec import Distribution
from services.trainer import environments
from services.trainer.algorithms.tabular import (
    TabularLearner,
    expected_sarsa_bootstrap,
    q_learning_bootstrap,
    sarsa_bootstrap,
)
from services.trainer.checkpoint import CheckpointStore
from services.trainer.config import EnvironmentConfig, TabularConfig, TabularRun, parse
from services.trainer.published import PublishedPolicy
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute
from services.trainer.runs.loop import LoopParts
from services.trainer.runs.store import RunStore
from services.trainer.runs.tabular import TabularLoop
from tutelage.v1 import training_pb2 as pb

FOLLOWING = np.array([1.0, 4.0, 4.0, 3.0])


def test_what_each_update_expects_of_the_state_that_follows() -> None:
    assert q_learning_bootstrap(FOLLOWING, 0.2, 0) == 4
    assert sarsa_bootstrap(FOLLOWING, 0.2, 0) == 1
    # 0.2 of the time any of the four, 3 in the mean; else one of the two that are worth 4.
    assert expected_sarsa_bootstrap(FOLLOWING, 0.2, 0) == pytest.approx(0.2 * 3 + 0.8 * 4)
    assert expected_sarsa_bootstrap(FOLLOWING, 0.0, 0) == 4


def learner(**changes: Any) -> TabularLearner:
    settings = {"learning_rate": 0.5, "learning_rate_power": 0, "discount": 0.9}
    return TabularLearner(3, 2, TabularConfig(**settings | changes))


def test_an_update_moves_the_value_towards_reward_and_what_follows() -> None:
    table = learner(update="q-learning", initial_value=2.0)
    table.values[1] = [4.0, 1.0]
    error = table.update(0, 1, reward=3.0, terminated=False, next_state=1, next_action=1, epsilon=0)
    assert error == pytest.approx(3 + 0.9 * 4 - 2)
    assert table.values[0].tolist() == [2.0, pytest.approx(2 + 0.5 * 4.6)]
    assert table.updates == 1


def test_sarsa_learns_from_the_action_that_is_taken() -> None:
    table = learner(update="sarsa")
    table.values[1] = [4.0, 1.0]
    table.update(0, 0, reward=0.0, terminated=False, next_state=1, next_action=1, epsilon=0.5)
    assert table.values[0, 0] == pytest.approx(0.5 * 0.9 * 1)


def test_nothing_follows_a_termination() -> None:
    table = learner()
    table.values[1] = [4.0, 1.0]
    table.update(0, 0, reward=1.0, terminated=True, next_state=1, next_action=0, epsilon=0)
    assert table.values[0, 0] == 0.5


def test_the_step_size_falls_with_visits_to_its_floor() -> None:
    table = learner(learning_rate=1.0, learning_rate_power=1.0, final_learning_rate=0.3)
    sizes = []
    for _ in range(5):
        before = table.values[0, 0]
        error = table.update(0, 0, 1.0, True, 0, 0, 0.0) or 1.0
        sizes.append((table.values[0, 0] - before) / error)
        table.values[0, 0] = 0.0
    assert sizes == pytest.approx([1, 1 / 2, 1 / 3, 0.3, 0.3])


def test_equals_are_chosen_evenly_and_the_best_alone_otherwise() -> None:
    table, generator = learner(), np.random.default_rng(0)
    states = np.zeros(2000, np.int64)
    assert abs(table.choose(states, 0.0, generator).mean() - 0.5) < 0.05
    table.values[0, 1] = 1.0
    assert table.choose(states, 0.0, generator).tolist() == [1] * 2000
    assert abs(table.choose(states, 0.4, generator).mean() - 0.8) < 0.05


# --- against exact solutions -------------------------------------------------------

DISCOUNT = 0.95


def learn(update: str, epsilon: float, steps: int, folder: Path, **lake: Any) -> TabularLearner:
    content = {
        "algorithm": "tabular",
        "policy": "lake",
        "environment": {"id": "FrozenLake-v1", "num_envs": 16, "kwargs": lake},
        "evaluation": {"period": 10**9},
        "checkpoint": {"period": 10**9},
        "tabular": {
            "total_env_steps": steps,
            "update": update,
            "discount": DISCOUNT,
            "learning_rate_power": 0.7,
            "epsilon": {"start": epsilon, "end": epsilon},
        },
    }
    config = parse(content, "test")
    assert isinstance(config, TabularRun)
    table = TabularLearner(16, 4, config.tabular)
    with session_in(folder) as session:
        checkpoints = CheckpointStore(folder / "checkpoints")
        parts = LoopParts(session, Indifferent(), checkpoints, np.random.default_rng(0))
        assert TabularLoop(config, table, parts).run()
    return table


def error_of(table: TabularLearner, expected: np.ndarray) -> float:
    """The largest among the values that were updated often enough to say something."""
    often = table.tensors()["visits"].numpy() >= 1000
    assert often.sum() >= 24
    return float(np.abs(table.values - expected)[often].max())


def test_q_learning_finds_the_optimal_values_of_a_stochastic_world(tmp_path: Path) -> None:
    table, model = learn("q-learning", 0.6, 150_000, tmp_path), Model("FrozenLake-v1")
    optimal = model.optimal(DISCOUNT)
    # It explores most of the way, and yet learns what the best policy is worth.
    assert error_of(table, optimal) < 0.03
    greedy = np.eye(4)[table.values.argmax(axis=1)]
    worth = (greedy * model.of_policy(greedy, DISCOUNT)).sum(axis=1)
    assert model.start @ worth > 0.97 * (model.start @ optimal.max(axis=1))


@pytest.mark.parametrize("update", ["sarsa", "expected-sarsa"])
def test_sarsa_finds_the_values_of_the_policy_it_follows(update: str, tmp_path: Path) -> None:
    epsilon = 0.5
    table, model = learn(update, epsilon, 150_000, tmp_path), Model("FrozenLake-v1")
    followed = model.of_policy(epsilon_greedy(table.values, epsilon), DISCOUNT)
    assert error_of(table, followed) < 0.05
    # Exploring half of the time is worth far less than the best, and it says so.
    assert model.optimal(DISCOUNT)[0].max() > 3 * table.values[0].max()


def test_q_learning_is_exact_where_nothing_is_left_to_chance(tmp_path: Path) -> None:
    table = learn("q-learning", 1.0, 60_000, tmp_path, is_slippery=False)
    optimal = Model("FrozenLake-v1", is_slippery=False).optimal(DISCOUNT)
    np.testing.assert_allclose(table.values, optimal, atol=1e-3)


# --- as a run ----------------------------------------------------------------------


def run(resources: Resources, folder: Path, **changes: Any) -> tuple[pb.RunStatus.ValueType, Any]:
    content = {
        "algorithm": "tabular",
        "policy": "lake",
        "environment": {"id": "FrozenLake-v1", "num_envs": 4, "kwargs": {"is_slippery": False}},
        "evaluation": {"period": 4000, "episodes": 4},
        "checkpoint": {"period": 2000},
        "tabular": {"total_env_steps": 8000, "epsilon": {"start": 1.0, "end": 1.0}},
    }
    made = RunStore(folder / "runs").create("test", parse(content | changes, "test"))
    return execute(made, resources), made


def test_a_run_publishes_its_table_before_and_after_training(
    resources: Resources, tmp_path: Path
) -> None:
    status, _ = run(resources, tmp_path)
    assert status == pb.RUN_STATUS_SUCCEEDED
    registry: PolicyRegistry = resources.registry
    before, *_, after = (registry.manifest("lake", v) for v in registry.versions("lake"))
    assert (before.env_steps, before.evaluation.mean_return) == (0, 0)
    assert (after.algorithm, after.evaluation.mean_return) == ("q-learning", 1)
    assert (after.spec.observation.n, after.spec.observation.shape) == (16, ())
    policy = PublishedPolicy(registry, "lake", "stable")
    states = np.arange(16)
    optimal = Model("FrozenLake-v1", is_slippery=False).optimal(0.99)
    chosen = optimal[states, policy.greedy(states)]
    np.testing.assert_allclose(chosen, optimal.max(axis=1), atol=1e-6)


def test_a_run_goes_on_from_its_table(resources: Resources, tmp_path: Path) -> None:
    _, made = run(resources, tmp_path)
    checkpoint = CheckpointStore(made.checkpoints).load_newest()
    assert checkpoint is not None
    table = TabularLearner(16, 4, TabularConfig())
    table.restore(checkpoint.tensors, checkpoint.state["updates"])
    assert table.updates == checkpoint.env_steps == checkpoint.tensors["visits"].sum()
    assert table.values.max() > 0.5


def test_states_that_cannot_be_counted_are_refused(resources: Resources, tmp_path: Path) -> None:
    status, made = run(resources, tmp_path, environment={"id": "CartPole-v1"})
    assert status == pb.RUN_STATUS_FAILED
    assert "cannot be counted" in made.history.read_text()
    cards = EnvironmentConfig(id="Blackjack-v1")
    with pytest.raises(InvalidConfig, match=r"observes Tuple.*expected Discrete from 0, a Box"):
        environments.spec_of(cards, Distribution.Q_VALUES)
