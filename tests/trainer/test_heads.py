"""Distributions by hand, and the same through an exported model and the inference service's own
arithmetic."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from services.common.action_space import Box, Discrete, MultiDiscrete
from services.common.spec import Distribution, ObservationSpace, PolicySpec
from services.inference.runner import PolicyRunner
from services.trainer.actor_critic import ActorCritic
from services.trainer.config import ActorCriticNetworkConfig
from services.trainer.export import Exporter
from services.trainer.heads import ClippedGaussian, Head, TanhGaussian, head_of

SEEN = ObservationSpace(dtype="float32", shape=(3,))
ARM = Box(shape=(2, 1), low=(-2, 0), high=(2, 10))
ONE = Box(shape=(1,), low=(-2,), high=(2,))
OBSERVATIONS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
SPACES = {
    "discrete": (Discrete(n=3), Distribution.LOGITS),
    "multi-discrete": (MultiDiscrete(nvec=(3, 2)), Distribution.LOGITS),
    "gaussian": (ARM, Distribution.GAUSSIAN),
    "tanh": (ARM, Distribution.TANH_GAUSSIAN),
    "deterministic": (ARM, Distribution.DETERMINISTIC),
}


def spec(kind: str) -> PolicySpec:
    action, distribution = SPACES[kind]
    return PolicySpec(
        environment="Probe-v0", observation=SEEN, action=action, distribution=distribution
    )


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def test_components_by_hand() -> None:
    head = head_of(spec("multi-discrete"))
    parameters = tensor([1, 2, 1, 1, 3]).log()  # 1/4 1/2 1/4 | 1/4 3/4
    assert head.greedy(parameters).tolist() == [[1, 1]]
    found = head.log_probability(parameters, torch.tensor([[0, 1]]))
    assert found.exp().tolist() == pytest.approx([1 / 4 * 3 / 4])
    halves = math.log(4) / 2 + math.log(2) / 2
    quarters = math.log(4) / 4 + 3 / 4 * math.log(4 / 3)
    assert head.entropy(parameters).tolist() == pytest.approx([halves + quarters])


@pytest.mark.parametrize(
    ("action", "probability"),
    [
        # A unit of the box is half a normalised one.
        (0.5, math.exp(-(0.25**2) / 2 / 0.25) / (0.5 * math.sqrt(math.tau)) / 2),
        (1.0, 0.0668072),  # what lies above: 1 - Φ(1.5)
        (-1.0, 0.0062097),  # what lies below: Φ(-2.5)
    ],
)
def test_a_clipped_gaussian_by_hand(action: float, probability: float) -> None:
    head, parameters = ClippedGaussian(ONE), tensor([0.25, math.log(0.5)])
    found = head.log_probability(parameters, tensor([action]))
    assert found.exp().tolist() == pytest.approx([probability], rel=1e-4)
    assert head.greedy(parameters).tolist() == [[0.5]]
    entropy = math.log(0.5 * math.sqrt(math.tau * math.e)) + math.log(2)
    assert head.entropy(parameters).tolist() == pytest.approx([entropy])


def test_gradients_far_outside_the_bounds_are_numbers() -> None:
    head, parameters = ClippedGaussian(ONE), tensor([30.0, -3.0], [-30.0, 0.0]).requires_grad_()
    head.log_probability(parameters, tensor([-1], [1])).sum().backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


def test_a_squashed_gaussian_by_hand() -> None:
    head, parameters = TanhGaussian(ONE), tensor([0.5, math.log(0.3)])
    before = 0.5 + 0.3 * 2  # noise 2
    density = math.exp(-2) / (0.3 * math.sqrt(math.tau)) / (1 - math.tanh(before) ** 2)
    actions, log_density = head.draw_with_gradient(parameters, tensor([2.0]))
    assert actions.tolist() == [[pytest.approx(math.tanh(before))]]
    assert log_density.exp().tolist() == pytest.approx([density], rel=1e-4)
    # In the box's units a density is spread over twice the width.
    rescaled = head.log_probability(parameters, actions)
    assert rescaled.exp().tolist() == pytest.approx([density / 2], rel=1e-3)
    assert head.rescale(actions).tolist() == [[pytest.approx(2 * math.tanh(before))]]


def test_actions_go_to_the_environment_and_come_back() -> None:
    head = head_of(spec("tanh"))
    assert isinstance(head, TanhGaussian)
    normalised = np.array([[-1, 0.5], [0.25, 1]], np.float32)
    own = head.to_environment(normalised)
    assert own.tolist() == [[[-2], [7.5]], [[0.5], [10]]]
    np.testing.assert_allclose(head.normalise(torch.from_numpy(own)).numpy(), normalised)
    np.testing.assert_allclose(head.rescale(torch.from_numpy(normalised)).numpy(), own)


@pytest.mark.parametrize("kind", ["discrete", "multi-discrete", "gaussian", "tanh"])
def test_what_is_drawn_is_as_probable_as_is_said(kind: str) -> None:
    head = head_of(spec(kind))
    row = np.random.default_rng(1).normal(size=(1, head.parameters_n)).astype(np.float32) / 2
    parameters = np.repeat(row, 20000, axis=0)
    actions = head.draw(parameters, np.random.default_rng(0))
    entropy = -head.log_probability(torch.from_numpy(parameters), torch.from_numpy(actions)).mean()
    again = head.draw(parameters, np.random.default_rng(0))
    np.testing.assert_array_equal(actions, again)
    if kind in ("discrete", "multi-discrete"):
        expected = head.entropy(torch.from_numpy(row)).item()
    else:  # by a sum over the plane that is not clipped, or squashed, away
        other = head.draw(parameters, np.random.default_rng(2))
        expected = (
            -head.log_probability(torch.from_numpy(parameters), torch.from_numpy(other))
            .mean()
            .item()
        )
    assert entropy.item() == pytest.approx(expected, abs=0.03)


class Fixed(nn.Module):
    """A linear policy; deterministic ones within [-1, 1]."""

    def __init__(self, head: Head, bounded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.bounded = nn.Linear(3, head.parameters_n), bounded

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        values = self.linear(observations)
        return torch.tanh(values) if self.bounded else values


@pytest.mark.parametrize("kind", list(SPACES))
def test_a_model_of_each_kind_is_served_as_the_trainer_means_it(kind: str) -> None:
    wanted = spec(kind)
    head = head_of(wanted)
    network = Fixed(head, kind == "deterministic")
    model = Exporter(wanted).export(network, OBSERVATIONS)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == [*wanted.outputs, "action"]
    with torch.no_grad():
        parameters = network(torch.from_numpy(OBSERVATIONS))
        best = head.greedy(parameters).numpy()
    (action,) = session.run(["action"], {"observation": OBSERVATIONS})
    assert action.dtype == best.dtype
    np.testing.assert_allclose(action, best, atol=1e-4)

    runner = PolicyRunner(model, wanted)
    given = runner.run(OBSERVATIONS)
    np.testing.assert_allclose(runner.decide(given).actions, best, atol=1e-4)
    if kind == "deterministic":
        return
    decided = runner.decide(given, sampled=np.ones(50, bool), seeds=np.arange(50, dtype=np.uint64))
    drawn = torch.from_numpy(np.asarray(decided.actions))
    own = head.normalise(drawn) if isinstance(head, ClippedGaussian | TanhGaussian) else drawn
    theirs = head.log_probability(parameters, own).numpy()
    np.testing.assert_allclose(decided.log_probabilities, theirs, atol=2e-3)


@pytest.mark.parametrize("kind", ["discrete", "multi-discrete", "gaussian"])
def test_an_actor_critic_is_exported_with_its_normalisation(kind: str) -> None:
    config = ActorCriticNetworkConfig(
        hidden=(8, 8), activation="tanh", layer_norm=True, normalise_observations=True
    )
    torch.manual_seed(0)
    network, exporter = ActorCritic(spec(kind), config), Exporter(spec(kind))
    for scale in (3.0, 0.1):
        network.prepare.observe(torch.from_numpy(scale * OBSERVATIONS + 1))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model = exporter.export(network.policy(), OBSERVATIONS)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (action,) = session.run(["action"], {"observation": OBSERVATIONS})
        with torch.no_grad():
            parameters, values = network(torch.from_numpy(OBSERVATIONS))
            alone = network.parameters_of(torch.from_numpy(OBSERVATIONS))
            value = network.value(torch.from_numpy(OBSERVATIONS))
        np.testing.assert_allclose(alone, parameters, atol=1e-5)
        np.testing.assert_allclose(value, values, atol=1e-5)
        np.testing.assert_allclose(action, head_of(spec(kind)).greedy(parameters), atol=1e-4)


@pytest.mark.parametrize("kind", ["discrete", "multi-discrete", "gaussian"])
def test_an_actor_critic_is_exported_with_its_values(kind: str) -> None:
    valued = spec(kind).model_copy(update={"valued": True})
    config = ActorCriticNetworkConfig(hidden=(8, 8), activation="tanh", normalise_observations=True)
    torch.manual_seed(0)
    network, exporter = ActorCritic(valued, config), Exporter(valued)
    plain = Exporter(spec(kind))
    for scale in (12.5, 3.0):  # that of normalised rewards changes as a run goes on
        network.prepare.observe(torch.from_numpy(scale * OBSERVATIONS + 1))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            expected = scale * network.value(torch.from_numpy(OBSERVATIONS))
        runner = PolicyRunner(exporter.export(network.valued_policy(scale), OBSERVATIONS), valued)
        values = runner.values(OBSERVATIONS)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
        alone = PolicyRunner(plain.export(network.policy(), OBSERVATIONS), spec(kind))
        np.testing.assert_allclose(runner.run(OBSERVATIONS), alone.run(OBSERVATIONS), atol=1e-5)
