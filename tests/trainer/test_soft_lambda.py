"""Soft Q-learning with λ-returns finds the values of a corridor whose rewards are 1, 2, 3."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from learning_rig import CPU

from services.common.replay import MemoryReplay, ReplaySchema, Sampling
from services.common.replay.window import Window
from services.common.spec import Distribution
from services.trainer import environments
from services.trainer.algorithms.soft_lambda import SoftLambdaLearner
from services.trainer.collector import Choice, Collector
from services.trainer.config import EnvironmentConfig, FineTuningConfig, QNetworkConfig
from services.trainer.networks import QNetwork


def window(environment: EnvironmentConfig, steps: int) -> Window:
    """Rows of random actions in the order in which they came."""
    envs = environments.make(environment)
    generator = np.random.default_rng(0)
    schema = ReplaySchema.transitions((1,), "float32")
    collector, replay = (
        Collector(envs, schema, seed=0),
        MemoryReplay(schema, 1000, Sampling(generator)),
    )

    def act(observations: np.ndarray) -> Choice:
        count = len(observations)
        return Choice(generator.integers(0, 2, count), np.zeros(count, np.float32))

    for _ in range(steps):
        collector.step(act)
        replay.append(collector.take())
    envs.close()
    return replay.newest(1000)


@pytest.mark.parametrize(
    ("temperature", "extra"),
    # With two equal actions a state is worth τ·log 2 more, where the episode goes on; of that
    # the share 1 - λ counts, for what was collected knows nothing of it.
    [(0.01, 0.0), (1.0, 0.5 * math.log(2))],
)
def test_the_values_of_a_corridor(temperature: float, extra: float) -> None:
    torch.manual_seed(0)
    environment = EnvironmentConfig(id="ProbeCorridor-v0", num_envs=4)
    spec = environments.spec_of(environment, Distribution.Q_VALUES)
    config = FineTuningConfig(
        learning_rate=0.005,
        batch_size=64,
        discount=0.5,
        trace=0.5,
        horizon=3,
        updates_per_refresh=50,
        huber_delta=1.0,
        max_gradient_norm=10.0,
        reward_scale=1.0,
    )
    network = QNetwork(spec, QNetworkConfig(hidden=(32,)))
    learner = SoftLambdaLearner(network, config, temperature, CPU)
    seen, generator = window(environment, 40), np.random.default_rng(0)
    for _ in range(20):
        learner.learn(seen, generator)
    values = learner.q_values(np.array([[0], [1], [2]], np.float32)).mean(axis=1)
    # 3; 2 + 0.5·(3 + extra); 1 + 0.5·(that + extra)
    second = 2 + 0.5 * (3 + extra)
    np.testing.assert_allclose(values, [1 + 0.5 * (second + extra), second, 3], atol=0.15)
