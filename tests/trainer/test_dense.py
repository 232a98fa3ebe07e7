"""A perceptron that knows its own gradient has the one that autograd finds."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.common.action_space import Discrete
from services.common.spec import Distribution, ObservationSpace, PolicySpec
from services.trainer.algorithms.dqn import DQNLearner
from services.trainer.config import DQNConfig, QNetworkConfig
from services.trainer.dense import dense
from services.trainer.experience import Experience
from services.trainer.gradients import FlatDescent
from services.trainer.networks import QNetwork

SPEC = PolicySpec(
    environment="Probe-v0",
    observation=ObservationSpace(dtype="float32", shape=(3,)),
    action=Discrete(n=3),
    distribution=Distribution.Q_VALUES,
)
KINDS = [
    {"hidden": (8, 4)},
    {"hidden": (8,), "layer_norm": True, "observation_scale": (1.0, 2.0, 3.0)},
    {"hidden": (8, 4), "layer_norm": True},
]


def made(settings: dict[str, Any]) -> QNetwork:
    torch.manual_seed(0)
    return QNetwork(SPEC, QNetworkConfig.model_validate(settings))


def gradients(network: QNetwork) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("settings", KINDS)
def test_its_values_and_gradients_are_autograds(settings: dict[str, Any]) -> None:
    network = made(settings)
    FlatDescent(list(network.parameters()), 0.1)
    seen, slopes = torch.randn(6, 3), torch.randn(6, 3)
    values = network(seen)
    values.backward(slopes)
    theirs = gradients(network)
    mine = dense(network)
    assert mine is not None
    with torch.inference_mode():
        torch.testing.assert_close(mine.forward(seen), values.detach())
        mine.backward(slopes)
    for found, expected in zip(gradients(network), theirs, strict=True):
        torch.testing.assert_close(found, expected)
    assert len(theirs) == len(list(network.parameters()))


@pytest.mark.parametrize("settings", [{"dueling": True}, {"noisy": True}, {"quantiles": 5}])
def test_other_networks_are_left_to_autograd(settings: dict[str, Any]) -> None:
    network = made({"hidden": (8, 4), **settings})
    FlatDescent(list(network.parameters()), 0.1)
    assert dense(network) is None


@pytest.mark.parametrize("loss", ["huber", "l1"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_learner_takes_the_steps_that_it_takes_by_autograd(loss: str, weighted: bool) -> None:
    config = DQNConfig(loss=loss, learning_rate=0.01, max_gradient_norm=0.5)
    learners = [_learner(made(KINDS[1]), config) for _ in range(2)]
    learners[1]._dense = learners[1]._dense_target = None
    generator = np.random.default_rng(0)
    for _ in range(100):
        experience = _experience(generator, weighted)
        updates = [learner.update(copy.deepcopy(experience)) for learner in learners]
        torch.testing.assert_close(updates[0].errors, updates[1].errors, atol=1e-4, rtol=1e-3)
    assert updates[0].figures == pytest.approx(updates[1].figures, rel=1e-3)
    assert updates[0].figures["loss"] > 0
    assert [learner.updates for learner in learners] == [100, 100]


def _learner(network: QNetwork, config: DQNConfig) -> DQNLearner:
    return DQNLearner(network, config, torch.device("cpu"), np.random.default_rng(0))


def _experience(generator: np.random.Generator, weighted: bool) -> Experience:
    floats = generator.standard_normal((2, 16, 3)).astype(np.float32)
    return Experience(
        observation=floats[0],
        action=generator.integers(3, size=16),
        reward=generator.standard_normal(16).astype(np.float32),
        next_observation=floats[1],
        discount=np.full(16, 0.9, np.float32),
        weights=generator.random(16, dtype=np.float32) if weighted else None,
    )
