"""SAC and TD3: targets and losses by hand, held noise, and going on from a state."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import tensor

from services.common.errors import InvalidConfig
from services.trainer.algorithms.twin_critics import TwinCriticsLearner
from services.trainer.config import parse
from services.trainer.exploration import HeldNoise
from services.trainer.losses import (
    smoothed_actions,
    soft_expected_target,
    soft_twin_target,
    temperature_loss,
    twin_target,
    twin_value_loss,
)
from services.trainer.runs.execute import twin_critics_learner
from services.trainer.stacked import StackedMLP

CPU = torch.device("cpu")
KINDS = [
    ("sac", "Pendulum-v1"),
    ("sac", "CartPole-v1"),
    ("td3", "Pendulum-v1"),
]


def test_the_lesser_critic_makes_the_target() -> None:
    found = twin_target(tensor([1.0, 2]), tensor([0.5, 0]), tensor([[4.0, 9], [6, 7]]))
    assert found.tolist() == [1 + 0.5 * 4, 2]


def test_an_action_that_is_less_probable_is_worth_more_to_sac() -> None:
    found = soft_twin_target(
        tensor([1.0, 1, 2]),
        tensor([0.5, 0.5, 0]),
        tensor([[4.0, 4, 9], [6, 6, 7]]),
        tensor([-3.0, 1, 5]),
        tensor(0.2),
    )
    assert found.tolist() == pytest.approx([1 + 0.5 * (4 + 0.6), 1 + 0.5 * (4 - 0.2), 2])


def test_discrete_sac_takes_the_expectation() -> None:
    chances = tensor([[0.25, 0.75]])
    values = tensor([[[4.0, 8]], [[6, 2]]])
    found = soft_expected_target(tensor([1.0]), tensor([0.5]), values, chances.log(), tensor(0.2))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.item() == pytest.approx(1 + 0.5 * (0.25 * 4 + 0.75 * 2 + 0.2 * entropy))


def test_both_critics_are_judged_by_one_target() -> None:
    loss = twin_value_loss(tensor([[1.0, 3], [2, 2]]), tensor([2.0, 0]))
    assert loss.item() == pytest.approx(((1 + 9) / 2 + (0 + 4) / 2) / 2)


@pytest.mark.parametrize(("log_density", "sign"), [(2.0, -1), (-5.0, 1)])
def test_the_temperature_rises_while_the_entropy_is_too_low(log_density: float, sign: int) -> None:
    log_temperature = tensor(0.3, requires_grad=True)
    density = tensor([log_density, log_density], requires_grad=True)
    loss = temperature_loss(log_temperature, density, target_entropy=-1.0)
    assert loss.item() == pytest.approx(-0.3 * (log_density - 1))
    loss.backward()
    assert density.grad is None
    assert torch.sign(log_temperature.grad).item() == sign  # descent goes the other way


def test_target_noise_is_clipped_and_so_is_the_action() -> None:
    found = smoothed_actions(tensor([[0.1], [0.9], [-0.9]]), tensor([[0.7], [0.2], [-9]]), 0.5)
    assert found.tolist() == [[pytest.approx(0.6)], [1], [-1]]


def test_stacked_networks_say_what_they_say_alone() -> None:
    torch.manual_seed(0)
    for norm in (False, True):
        stacked = StackedMLP(2, (3, 5, 4, 1), layer_norm=norm, linear_end=True)
        x = torch.randn(7, 3)
        together = stacked(x)  # (2, 7, 1)
        for copy in (0, 1):
            torch.testing.assert_close(stacked.one(copy, x), together[copy])
            torch.testing.assert_close(stacked.alone(copy)(x), together[copy])


def test_noise_is_held_as_long_as_was_said_in_the_mean() -> None:
    noise = HeldNoise(200, 2, 5.0, np.random.default_rng(0))
    drawn = [noise.draw() for _ in range(300)]
    anew = [(a != b).all(axis=1).mean() for a, b in itertools.pairwise(drawn)]
    assert np.mean(anew) == pytest.approx(1 / 5, abs=0.01)
    assert np.std(drawn) == pytest.approx(1, abs=0.05)
    even = [noise.draw_evenly() for _ in range(300)]
    assert -1 <= np.min(even) < -0.9
    assert 0.9 < np.max(even) <= 1


def test_noise_of_length_one_is_always_new() -> None:
    noise = HeldNoise(3, 1, 1.0, np.random.default_rng(0))
    assert (noise.draw() != noise.draw()).all()


def config(algorithm: str, environment: str, **changes: Any) -> Any:
    content = {
        "algorithm": algorithm,
        "policy": "probe",
        "environment": {"id": environment},
        "network": {"hidden": [16]},
        algorithm: {"batch_size": 8, "learning_rate": 0.01} | changes,
    }
    return parse(content, "test")


def batch(learner: TwinCriticsLearner, spec: Any, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    shape = (8, *spec.observation.shape)
    if spec.actions:
        actions: Any = generator.integers(spec.actions, size=8).astype(np.int32)
    else:
        actions = generator.uniform(-2, 2, (8, 1)).astype(np.float32)
    return SimpleNamespace(
        observation=generator.normal(size=shape).astype(np.float32),
        next_observation=generator.normal(size=shape).astype(np.float32),
        action=actions,
        reward=generator.normal(size=8).astype(np.float32),
        discount=np.full(8, 0.9, np.float32),
    )


@pytest.mark.parametrize(("algorithm", "environment"), KINDS)
def test_a_learner_goes_on_from_its_state_bit_for_bit(algorithm: str, environment: str) -> None:
    settings = config(algorithm, environment)
    torch.manual_seed(0)
    one_generator = np.random.default_rng(0)
    spec, one = twin_critics_learner(settings, CPU, one_generator)
    for seed in range(5):
        one.update(batch(one, spec, seed))
    torch.manual_seed(1)
    other_generator = np.random.default_rng(1)
    _, other = twin_critics_learner(settings, CPU, other_generator)
    other.restore({name: t.clone() for name, t in one.tensors().items()}, one.updates)
    other_generator.bit_generator.state = one_generator.bit_generator.state
    for seed in range(5, 10):
        one.update(batch(one, spec, seed))
        other.update(batch(other, spec, seed))
    mine, its = one.tensors(), other.tensors()
    assert mine.keys() == its.keys()
    for name in mine:
        assert torch.equal(mine[name], its[name]), name


@pytest.mark.parametrize(("algorithm", "environment"), KINDS)
def test_slow_copies_follow_and_actor_losses_leave_critics_alone(
    algorithm: str, environment: str
) -> None:
    changes = {"target_tau": 0.5, "policy_delay": 1} if algorithm == "td3" else {"target_tau": 0.5}
    settings = config(algorithm, environment, **changes)
    spec, learner = twin_critics_learner(settings, CPU, np.random.default_rng(0))
    before = {n: t.clone() for n, t in learner.tensors().items()}
    learner.update(batch(learner, spec, 0))
    after = learner.tensors()
    for name in ("weights.0", "biases.1"):
        slow = 0.5 * before[f"slow_critics.{name}"] + 0.5 * after[f"critics.{name}"]
        torch.testing.assert_close(after[f"slow_critics.{name}"], slow)
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith("network."))


def test_the_entropy_scale_is_of_the_most_there_is() -> None:
    _, learner = twin_critics_learner(
        config("sac", "CartPole-v1", target_entropy_scale=0.5), CPU, np.random.default_rng(0)
    )
    assert vars(learner)["_target_entropy"] == pytest.approx(0.5 * math.log(2))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"CartPole-v1 acts in Discrete.*deterministic"):
        twin_critics_learner(config("td3", "CartPole-v1"), CPU, np.random.default_rng(0))
    content = config("sac", "Pendulum-v1").model_dump()
    content["network"]["normalise_observations"] = True
    with pytest.raises(InvalidConfig, match="is for ppo and a2c"):
        parse(content, "test")
