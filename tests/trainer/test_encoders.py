"""What networks make of what is observed, and that learners learn from it. γ is 0.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import picture_probes  # noqa: F401 - registers them
import pytest
import torch
from learning_rig import dqn_config, learn_dqn, make_dqn
from picture_probes import picture
from pydantic import ValidationError
from torch import nn

from services.common.errors import InvalidConfig
from services.common.spec import DictSpace, ObservationSpace
from services.inference.runner import PolicyRunner
from services.trainer.config import ConvolutionConfig, ImageConfig, NetworkConfig, QNetworkConfig
from services.trainer.encoders import Channels, Difference, encoder
from services.trainer.experience import Experience
from services.trainer.export import Exporter
from services.trainer.resources import Resources

CLOSE = 0.15
SMALL: dict[str, Any] = {"convolutions": [{"channels": 4, "kernel": 3, "stride": 2}]}


def network(**image: Any) -> NetworkConfig:
    layers = (ConvolutionConfig(channels=4, kernel=3, stride=2),)
    return NetworkConfig(hidden=(8,), image=ImageConfig(convolutions=layers, **image))


def encoded(space: ObservationSpace | DictSpace, config: NetworkConfig) -> tuple[nn.Module, int]:
    layers, width = encoder(space, config)
    return nn.Sequential(*layers), width


@pytest.mark.parametrize(
    ("shape", "image", "channels"),
    [
        ((8, 12), {}, 1),
        ((4, 8, 12), {}, 4),
        ((2, 3, 8, 12), {}, 6),
        ((2, 3, 8, 12), {"difference": True}, 3),
        ((2, 8, 12), {"difference": True}, 1),
        ((8, 12, 3), {"channels_last": True}, 3),
        ((2, 8, 12, 3), {"channels_last": True}, 6),
        ((2, 8, 12, 3), {"channels_last": True, "difference": True}, 3),
    ],
)
def test_pictures_of_every_layout_are_convolved(
    shape: tuple[int, ...], image: dict[str, Any], channels: int
) -> None:
    encode, width = encoded(ObservationSpace(dtype="uint8", shape=shape), network(**image))
    (convolution,) = (layer for layer in encode if isinstance(layer, nn.Conv2d))
    assert convolution.in_channels == channels
    assert encode(torch.zeros(5, *shape)).shape == (5, width)


def test_channels_keep_what_belongs_together() -> None:
    frames = torch.arange(2 * 2 * 3 * 5.0).reshape(1, 2, 2, 3, 5)  # frames, height, width, channels
    arranged = Channels(last=True)(frames)
    assert arranged.shape == (1, 10, 2, 3)
    torch.testing.assert_close(arranged[0, 7], frames[0, 1, :, :, 2])


def test_the_difference_is_of_the_newest_two() -> None:
    frames = torch.tensor([[[9.0], [5.0], [2.0]]])
    torch.testing.assert_close(Difference()(frames), torch.tensor([[-3.0]]))


def test_bytes_are_scaled_and_other_numbers_are_not() -> None:
    plain = NetworkConfig(hidden=(8,))
    seen = torch.tensor([[0.0, 51.0, 255.0]])
    for dtype, expected in (("uint8", [[0, 0.2, 1]]), ("float32", [[0.0, 51, 255]])):
        encode, _ = encoded(ObservationSpace(dtype=dtype, shape=(3,)), plain)  # type: ignore[arg-type]
        torch.testing.assert_close(encode(seen), torch.tensor(expected))


def test_each_part_of_a_dict_has_its_own_encoder() -> None:
    parts = {
        "number": ObservationSpace(dtype="int64", shape=(), n=4),
        "picture": ObservationSpace(dtype="uint8", shape=(8, 12)),
        "vector": ObservationSpace(dtype="float32", shape=(3,)),
    }
    encode, width = encoded(DictSpace(parts=parts), network())
    row = torch.cat([torch.tensor([[2.0]]), torch.zeros(1, 96), torch.tensor([[7.0, 8, 9]])], dim=1)
    features = encode(row)
    assert width == features.shape[1] == 4 + 4 * 3 * 5 + 3
    assert features[0, :4].tolist() == [0, 0, 1, 0]
    assert features[0, -3:].tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("space", "config", "message"),
    [
        (ObservationSpace(dtype="float32", shape=(4,)), network(), "not for observations of"),
        (ObservationSpace(dtype="uint8", shape=(2, 12)), network(), "left after layer 1"),
        (ObservationSpace(dtype="uint8", shape=(8, 8)), network(difference=True), "no two"),
        (
            DictSpace(parts={"a": ObservationSpace(dtype="float32", shape=(2,))}),
            network(),
            "there is none in a",
        ),
        (
            DictSpace(parts={"a": ObservationSpace(dtype="float32", shape=(2,))}),
            NetworkConfig(observation_scale=(1.0, 1.0)),
            "several parts",
        ),
    ],
)
def test_networks_for_something_else_are_refused(
    space: ObservationSpace | DictSpace, config: NetworkConfig, message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        encoder(space, config)


def test_networks_without_layers_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least one layer"):
        NetworkConfig(hidden=())
    with pytest.raises(ValidationError, match="dueling splits"):
        QNetworkConfig(hidden=(), dueling=True, image=network().image)
    with pytest.raises(ValidationError, match="observation_scale is for what"):
        NetworkConfig(observation_scale=(1.0,), image=network().image)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": []},
        {"layer_norm": True, "image": {**SMALL, "norm": "layer"}},
        {"dueling": True, "quantiles": 5},
    ],
)
def test_dqn_learns_from_a_picture(
    changes: dict[str, Any], resources: Resources, tmp_path: Path
) -> None:
    config = dqn_config("ProbeSide-v0", {"image": SMALL, **changes}, learning_rate=0.005)
    learner = learn_dqn(config, resources, tmp_path)
    seen = np.stack([picture(1), picture(8)])[:, None]
    np.testing.assert_allclose(learner.q_values(seen), np.eye(2), atol=CLOSE)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_dqn_learns_from_the_difference_of_two_frames_kept_once(
    norm: str, resources: Resources, tmp_path: Path
) -> None:
    image = {**SMALL, "difference": True, "norm": norm}
    config = dqn_config("ProbeMotion-v0", {"image": image}, total_env_steps=960, learning_rate=0.01)
    framed = config.replay.model_copy(update={"frame_stack": 2})
    learner = learn_dqn(config.model_copy(update={"replay": framed}), resources, tmp_path)
    seen = np.stack([[picture(8), picture(5)], [picture(1), picture(5)]])
    np.testing.assert_allclose(learner.q_values(seen), np.eye(2), atol=2 * CLOSE)


def test_what_is_normalised_by_batch_acts_the_same_in_any_company() -> None:
    config = dqn_config("ProbeSide-v0", {"image": {**SMALL, "norm": "batch"}})
    learner = make_dqn(config)
    seen = np.random.default_rng(0).integers(0, 256, (16, 1, 8, 12), np.uint8)
    alone = learner.q_values(seen[:1])
    np.testing.assert_allclose(learner.q_values(seen)[:1], alone, atol=1e-6)
    ones = np.ones(16, np.float32)
    learner.update(Experience(seen, np.zeros(16, np.int64), ones, ones, seen))
    assert not np.allclose(learner.q_values(seen[:1]), alone)
    means = [b for name, b in learner.network.named_buffers() if name.endswith("running_mean")]
    assert means
    assert all(mean.abs().sum() > 0 for mean in means)
    np.testing.assert_allclose(learner.q_values(seen)[:1], learner.q_values(seen[:1]), atol=1e-6)


def test_models_follow_what_is_normalised_by_batch() -> None:
    """The exporter makes BatchNorm part of the convolution before it."""
    learner = make_dqn(dqn_config("ProbeSide-v0", {"image": {**SMALL, "norm": "batch"}}))
    seen = np.random.default_rng(0).integers(0, 256, (16, 1, 8, 12), np.uint8)
    exporter, ones = Exporter(learner.network.spec), np.ones(16, np.float32)
    for _ in range(2):
        runner = PolicyRunner(exporter.export(learner.network, seen), learner.network.spec)
        np.testing.assert_allclose(runner.run(seen), learner.q_values(seen), atol=1e-4)
        learner.update(Experience(seen, np.zeros(16, np.int64), ones, ones, seen))


def test_batch_norm_is_refused_where_it_means_nothing() -> None:
    batch = {"image": {**SMALL, "norm": "batch"}}
    for changes in ({"target_tau": 0.1, "target_update_period": 1},):
        with pytest.raises(InvalidConfig, match="target_tau 1"):
            dqn_config("ProbeSide-v0", batch, **changes)
    for more in ({"noisy": True}, {"quantiles": 3}):
        with pytest.raises(InvalidConfig, match="neither noisy nor quantiles"):
            dqn_config("ProbeSide-v0", {**batch, **more})
