"""ONNX models that say what their networks say, and refusals of those that do not."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from services.common.errors import ModelRejected
from services.common.spec import Distribution, ObservationSpace, PolicySpec
from services.inference.distribution import decide
from services.inference.runner import PolicyRunner
from services.trainer.actor_critic import ActorCritic
from services.trainer.config import ActorCriticNetworkConfig, QNetworkConfig
from services.trainer.export import Exporter, _WithGreedyAction, _WithMask, check_parity
from services.trainer.networks import QNetwork, QTable
from services.trainer.noisy import resample

Q_SPEC = PolicySpec(
    environment="CartPole-v1",
    observation=ObservationSpace(dtype="float32", shape=(4,)),
    actions=3,
    distribution=Distribution.Q_VALUES,
)
LOGITS_SPEC = Q_SPEC.model_copy(update={"distribution": Distribution.LOGITS})
ACTOR_CRITIC = ActorCriticNetworkConfig(hidden=(8, 8))
PLAIN = QNetworkConfig(hidden=(8, 8))
FULL = QNetworkConfig(hidden=(8, 8), layer_norm=True, observation_scale=(2.0, 2.0, 0.2, 2.0))
DUELING = QNetworkConfig(hidden=(8, 8), dueling=True)
QUANTILES = QNetworkConfig(hidden=(8, 8), quantiles=5)
ALL = FULL.model_copy(update={"dueling": True, "quantiles": 5, "noisy": True})
OBSERVATIONS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def network(kind: str, seed: int = 0) -> tuple[nn.Module, PolicySpec]:
    torch.manual_seed(seed)
    match kind:
        case "plain":
            return QNetwork(Q_SPEC, PLAIN), Q_SPEC
        case "full":
            return QNetwork(Q_SPEC, FULL), Q_SPEC
        case "dueling":
            return QNetwork(Q_SPEC, DUELING), Q_SPEC
        case "quantiles":
            return QNetwork(Q_SPEC, QUANTILES), Q_SPEC
        case "all":
            return QNetwork(Q_SPEC, ALL), Q_SPEC
        case _:
            return ActorCritic(LOGITS_SPEC, ACTOR_CRITIC).policy(), LOGITS_SPEC


def answer(model: bytes, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parameters, action = session.run(None, {"observation": observations})
    return parameters, action


@pytest.mark.parametrize("kind", ["plain", "full", "dueling", "quantiles", "all", "actor"])
def test_a_model_says_what_its_network_says(kind: str) -> None:
    exported, spec = network(kind)
    exporter = Exporter(spec)
    model = exporter.export(exported, OBSERVATIONS)
    for size in (1, 2, 7, 64):
        batch = np.resize(OBSERVATIONS * 10, (size, 4))
        parameters, action = answer(model, batch)
        theirs = exported(torch.from_numpy(batch)).detach().numpy()
        np.testing.assert_allclose(parameters, theirs, atol=1e-4, rtol=1e-4)
        np.testing.assert_array_equal(action, theirs.argmax(axis=1))
        assert action.dtype == np.int64
    # Trained on, or another network of the same form: the model follows its weights.
    other, _ = network(kind, seed=1)
    parameters, _ = answer(exporter.export(other, OBSERVATIONS), OBSERVATIONS)
    theirs = other(torch.from_numpy(OBSERVATIONS)).detach().numpy()
    np.testing.assert_allclose(parameters, theirs, atol=1e-4, rtol=1e-4)


def test_weights_that_were_equal_when_traced_may_part_later() -> None:
    # A fresh LayerNorm's weights are all one; the exporter keeps them as one tensor.
    exported, spec = network("full")
    exporter = Exporter(spec)
    exporter.export(exported, OBSERVATIONS)
    with torch.no_grad():
        for i, parameter in enumerate(exported.parameters()):
            parameter.add_(0.1 * i)
    parameters, _ = answer(exporter.export(exported, OBSERVATIONS), OBSERVATIONS)
    theirs = exported(torch.from_numpy(OBSERVATIONS)).detach().numpy()
    np.testing.assert_allclose(parameters, theirs, atol=1e-4, rtol=1e-4)


def test_a_table_of_zeros_may_be_filled_later() -> None:
    states = ObservationSpace(dtype="int64", shape=(), n=5)
    exporter = Exporter(Q_SPEC.model_copy(update={"observation": states}))
    seen = np.arange(5)
    for values in (torch.zeros(5, 3), torch.rand(5, 3)):
        parameters, actions = answer(exporter.export(QTable(values), seen), seen)
        np.testing.assert_array_equal(parameters, values.numpy())
        np.testing.assert_array_equal(actions, values.argmax(dim=1).numpy())


def test_numbers_of_states_go_into_a_network_one_hot() -> None:
    states = ObservationSpace(dtype="int64", shape=(), n=5)
    spec = Q_SPEC.model_copy(update={"observation": states})
    exported, seen = QNetwork(spec, PLAIN), np.arange(5)
    parameters, _ = answer(Exporter(spec).export(exported, seen), seen)
    layer, *rest = (m for m in exported.modules() if isinstance(m, nn.Linear))
    assert layer.in_features == 5
    hidden = torch.relu(layer.weight.T + layer.bias)  # a row a state
    for linear in rest:
        hidden = linear(hidden) if linear is rest[-1] else torch.relu(linear(hidden))
    np.testing.assert_allclose(parameters, hidden.detach().numpy(), atol=1e-5)


def test_a_noisy_network_is_exported_without_its_noise() -> None:
    exported, spec = network("all")
    resample(exported.train(), np.random.default_rng(0))
    noisy = exported(torch.from_numpy(OBSERVATIONS)).detach().numpy()
    parameters, _ = answer(Exporter(spec).export(exported, OBSERVATIONS), OBSERVATIONS)
    assert not np.allclose(parameters, noisy, atol=1e-3)
    calm = exported.eval()(torch.from_numpy(OBSERVATIONS)).detach().numpy()
    np.testing.assert_allclose(parameters, calm, atol=1e-4, rtol=1e-4)


def test_a_masked_model_takes_masks_and_never_prefers_what_they_forbid() -> None:
    spec = Q_SPEC.model_copy(update={"masked": True})
    exported, _ = network("plain")
    exporter = Exporter(spec)
    for seed, shift in ((0, 0.0), (1, -50.0)):
        exported, _ = network("plain", seed)
        with torch.no_grad():
            exported.head.bias.add_(shift)
        model = exporter.export(exported, OBSERVATIONS)
        runner = PolicyRunner(model, spec)
        masks = np.random.default_rng(0).random((50, 3)) < 0.5
        masks[:, 0] |= ~masks.any(axis=1)
        found = decide(runner.run(OBSERVATIONS, masks), masks=masks)
        values = exported(torch.from_numpy(OBSERVATIONS)).detach().numpy()
        assert found.actions == np.where(masks, values, -np.inf).argmax(axis=1).tolist()
        np.testing.assert_allclose(found.parameters[masks], values[masks], atol=1e-4)
        assert (found.parameters[~masks] == -1e9).all()
        # Without a mask all is allowed.
        np.testing.assert_allclose(runner.run(OBSERVATIONS), values, atol=1e-4)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        feeds = {"observation": OBSERVATIONS, "action_mask": masks}
        assert session.run(["action"], feeds)[0].tolist() == found.actions
    other, _ = network("plain", seed=5)
    with pytest.raises(ModelRejected, match="differs from the network"):
        check_parity(model, _WithMask(other, spec), spec, OBSERVATIONS)


def test_the_signature_is_the_platforms() -> None:
    exported, spec = network("actor")
    model = onnx.load_from_string(Exporter(spec).export(exported, OBSERVATIONS))
    assert [value.name for value in model.graph.input] == ["observation"]
    assert [value.name for value in model.graph.output] == ["logits", "action"]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param
    assert not batch.dim_value
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_bytes_are_taken_as_an_environment_gives_them() -> None:
    spec = Q_SPEC.model_copy(update={"observation": ObservationSpace(dtype="uint8", shape=(2, 3))})
    images = np.random.default_rng(0).integers(0, 256, (20, 2, 3)).astype(np.uint8)
    exported = QNetwork(spec, PLAIN)
    model = Exporter(spec).export(exported, images)
    parameters, _ = answer(model, images)
    theirs = exported(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(parameters, theirs, atol=1e-2, rtol=1e-4)


def test_a_model_of_another_network_is_rejected() -> None:
    exported, spec = network("plain")
    other, _ = network("plain", seed=1)
    model = Exporter(spec).export(exported, OBSERVATIONS)
    with pytest.raises(ModelRejected, match=r"differs from the network by .* on a batch of 1"):
        check_parity(model, _WithGreedyAction(other, spec), spec, OBSERVATIONS)


def test_a_model_whose_weights_were_changed_is_rejected() -> None:
    exported, spec = network("plain")
    model = onnx.load_from_string(Exporter(spec).export(exported, OBSERVATIONS))
    tensor = next(t for t in model.graph.initializer if t.name.endswith("head.bias"))
    values = onnx.numpy_helper.to_array(tensor) + np.float32(0.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ModelRejected, match="differs from the network"):
        check_parity(
            model.SerializeToString(), _WithGreedyAction(exported, spec), spec, OBSERVATIONS
        )


def test_a_network_that_has_diverged_is_rejected() -> None:
    exported, spec = network("plain")
    with torch.no_grad():
        exported.head.bias.fill_(float("nan"))
    with pytest.raises(ModelRejected, match="differs from the network by nan"):
        Exporter(spec).export(exported, OBSERVATIONS)
