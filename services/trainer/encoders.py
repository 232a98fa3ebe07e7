"""What stands at the front of a network: from an observation to features.

A picture goes through convolutions, the number of a state becomes a vector of its own, other
arrays are flattened; of a Dict, each part is encoded so, and the features lie side by side.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from services.common.errors import InvalidConfig
from services.common.spec import DictSpace, ObservationSpace
from services.trainer.config import ImageConfig, NetworkConfig

BYTE = 255.0


class Rescale(nn.Module):
    """Divides each observation element by a constant, in the network so that exports carry it."""

    scale: Tensor

    def __init__(self, scale: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *shape) → (B, *shape)"""
        return observations / self.scale


class OneHot(nn.Module):
    """Numbers of states as vectors, in which a network can tell them apart."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.states = states

    def forward(self, states: Tensor) -> Tensor:
        """(B,) → (B, states)"""
        return nn.functional.one_hot(states.long(), self.states).float()


class Difference(nn.Module):
    """The newest of several frames less the one before."""

    def forward(self, frames: Tensor) -> Tensor:
        """(B, frames, *shape) → (B, *shape)"""
        return frames[:, -1] - frames[:, -2]


class Channels(nn.Module):
    """Pictures as convolutions take them.

    Args:
        last: whether channels are the last axis.
    """

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, …, height, width[, channels]) → (B, all channels, height, width)"""
        if self.last:
            pictures = pictures.movedim(-1, -3)
        if pictures.dim() == 3:
            return pictures.unsqueeze(1)
        return pictures.flatten(1, -3)


class Parts(nn.Module):
    """A Dict's parts out of one row of numbers, each through its own encoder.

    Args:
        spaces, encoders: of the parts, in the same order.
    """

    def __init__(self, spaces: list[ObservationSpace], encoders: list[nn.Sequential]) -> None:
        super().__init__()
        self.shapes = [space.shape for space in spaces]
        self.sizes = [space.size for space in spaces]
        self.encoders = nn.ModuleList(encoders)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, size) → (B, features)"""
        parts = torch.split(rows, self.sizes, dim=1)
        shaped = (part.reshape(-1, *s) for part, s in zip(parts, self.shapes, strict=True))
        encoded = [encode(part) for encode, part in zip(self.encoders, shaped, strict=True)]
        return torch.cat(encoded, dim=1)


def encoder(
    space: ObservationSpace | DictSpace, config: NetworkConfig
) -> tuple[list[nn.Module], int]:
    """Layers from observations, as float32, to features (B, n), and n.

    Raises:
        InvalidConfig: when the network is not for such observations.
    """
    if not isinstance(space, DictSpace):
        if config.image is not None and not _is_picture(space):
            raise InvalidConfig(f"network.image is for pictures, not for observations of {space}")
        return _encoder(space, config)
    if config.observation_scale:
        raise InvalidConfig("network.observation_scale is not for observations of several parts")
    spaces = list(space.parts.values())
    if config.image is not None and not any(map(_is_picture, spaces)):
        raise InvalidConfig(f"network.image is for pictures, and there is none in {space}")
    encoded = [_encoder(part, config) for part in spaces]
    parts = Parts(spaces, [nn.Sequential(*layers) for layers, _ in encoded])
    return [parts], sum(width for _, width in encoded)


def _encoder(space: ObservationSpace, config: NetworkConfig) -> tuple[list[nn.Module], int]:
    if space.n:
        return [OneHot(space.n)], space.n
    if config.image is not None and _is_picture(space):
        return _convolutions(space, config.image)
    layers: list[nn.Module] = [nn.Flatten()]
    if config.observation_scale:
        layers.append(Rescale(config.observation_scale))
    elif space.dtype == "uint8":
        layers.append(Rescale((BYTE,)))
    return layers, space.size


def _is_picture(space: ObservationSpace) -> bool:
    return len(space.shape) >= 2


def _convolutions(space: ObservationSpace, config: ImageConfig) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = [Rescale((BYTE,))] if space.dtype == "uint8" else []
    shape = space.shape
    if config.difference:
        if len(shape) < 3 or shape[0] < 2:
            raise InvalidConfig(
                f"network.image.difference is of frames, of which {space} has no two"
            )
        layers.append(Difference())
        shape = shape[1:]
    layers.append(Channels(config.channels_last and len(shape) > 2))
    if config.channels_last and len(shape) > 2:
        shape = (*shape[:-3], shape[-1], *shape[-3:-1])
    size, widths = list(shape[-2:]), [math.prod(shape[:-2])]
    for i, layer in enumerate(config.convolutions):
        size = [(length - layer.kernel) // layer.stride + 1 for length in size]
        if min(size) < 1:
            raise InvalidConfig(
                f"network.image.convolutions: nothing of {space} is left after layer {i + 1}"
            )
        widths.append(layer.channels)
    for (inputs, outputs), layer in zip(pairwise(widths), config.convolutions, strict=True):
        layers.append(nn.Conv2d(inputs, outputs, layer.kernel, layer.stride))
        layers += _norm(config, outputs)
        layers.append(nn.ReLU())
    layers.append(nn.Flatten())
    return layers, widths[-1] * math.prod(size)


def _norm(config: ImageConfig, channels: int) -> list[nn.Module]:
    match config.norm:
        case "batch":
            return [nn.BatchNorm2d(channels)]
        case "layer":
            return [nn.GroupNorm(1, channels)]
        case "none":
            return []
