"""Acting in numpy gives what the network gives, by its newest weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from services.common.action_space import Box, Discrete
from services.common.spec import Distribution, ObservationSpace, PolicySpec
from services.trainer import acting
from services.trainer.actor_critic import ActorCritic, actor
from services.trainer.config import ActorCriticNetworkConfig, QNetworkConfig
from services.trainer.networks import LeashedQNetwork, QNetwork

SEEN = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
ARM = Box(shape=(2,), low=(-1, -1), high=(1, 1))
KINDS = [
    (Discrete(n=3), Distribution.LOGITS),
    (ARM, Distribution.GAUSSIAN),
    (ARM, Distribution.TANH_GAUSSIAN),
    (ARM, Distribution.DETERMINISTIC),
]


def spec(action: Discrete | Box, distribution: Distribution) -> PolicySpec:
    return PolicySpec(
        environment="Probe-v0",
        observation=ObservationSpace(dtype="float32", shape=(3,)),
        action=action,
        distribution=distribution,
    )


@pytest.mark.parametrize(("action", "distribution"), KINDS)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_it_is_the_networks_by_the_newest_weights(
    action: Discrete | Box, distribution: Distribution, layer_norm: bool
) -> None:
    config = ActorCriticNetworkConfig(
        hidden=(8, 4),
        activation="tanh",
        observation_scale=(1.0, 2.0, 3.0),
        layer_norm=layer_norm,
    )
    on_policy = distribution in (Distribution.LOGITS, Distribution.GAUSSIAN)
    wanted = spec(action, distribution)
    network = ActorCritic(wanted, config) if on_policy else actor(wanted, config)
    forward = network.parameters_of if isinstance(network, ActorCritic) else network
    steps = network.acting()
    assert steps is not None
    for _ in range(2):
        with torch.no_grad():
            theirs = forward(torch.from_numpy(SEEN)).numpy()
        np.testing.assert_allclose(acting.run(steps, SEEN), theirs, atol=1e-5)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3)
        network.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": (8, 4), "layer_norm": False},
        {"hidden": (8, 4), "layer_norm": True, "observation_scale": (1.0, 2.0, 3.0)},
        {"hidden": (8, 4), "dueling": True},
        {"hidden": (8,), "quantiles": 5},
        {"hidden": (8, 4), "dueling": True, "quantiles": 5},
    ],
)
def test_action_values_are_the_networks(settings: dict[str, Any]) -> None:
    wanted = spec(Discrete(n=3), Distribution.Q_VALUES)
    network = QNetwork(wanted, QNetworkConfig.model_validate(settings))
    steps = acting.q_steps(network)
    assert steps is not None
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
        theirs = network(torch.from_numpy(SEEN)).numpy()
    np.testing.assert_allclose(acting.run(steps, SEEN), theirs, atol=1e-4, rtol=1e-4)


def test_values_on_a_leash_are_the_networks() -> None:
    wanted = spec(Discrete(n=3), Distribution.Q_VALUES)
    base, first, second = (QNetwork(wanted, QNetworkConfig(hidden=(8, 4))) for _ in range(3))
    network = LeashedQNetwork(base, first, 0.7, 0.05, -3.0)
    network = LeashedQNetwork(network, second, 0.7, 0.05, -3.0)
    with torch.no_grad():
        for correction in (first, second):
            for parameter in correction.head.parameters():
                parameter.normal_()
    steps = acting.leashed_steps(network)
    assert steps is not None
    with torch.no_grad():
        theirs = network(torch.from_numpy(SEEN)).numpy()
    assert theirs.min() < -1
    np.testing.assert_allclose(acting.run(steps, SEEN), theirs, atol=1e-4, rtol=1e-4)


def test_noisy_action_values_are_left_to_torch() -> None:
    wanted = spec(Discrete(n=3), Distribution.Q_VALUES)
    assert acting.q_steps(QNetwork(wanted, QNetworkConfig(noisy=True))) is None


def test_observations_that_are_normalised_are_so_in_numpy() -> None:
    config = ActorCriticNetworkConfig(hidden=(8,), normalise_observations=True)
    network = ActorCritic(spec(*KINDS[0]), config)
    steps = network.acting()
    assert steps is not None
    network.observe(torch.from_numpy(3 * SEEN + 1))
    with torch.no_grad():
        theirs = network.parameters_of(torch.from_numpy(SEEN)).numpy()
    np.testing.assert_allclose(acting.run(steps, SEEN), theirs, atol=1e-5)


def test_what_is_not_known_is_left_to_torch() -> None:
    assert acting.numpy_steps(nn.Sequential(nn.Linear(3, 4), nn.GELU())) is None
