"""A small network's forward pass in numpy, for acting: on few rows torch's calls cost several
times the arithmetic. Weights are views of torch's own, so that they are always the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from services.trainer.encoders import Rescale
from services.trainer.normalising import LIMIT, Normaliser

Array = npt.NDArray[Any]
Step = Callable[[Array], Array]


def numpy_steps(layers: nn.Module) -> list[Step] | None:
    """What the layers do one after another; None where one of them is not known here, or they
    are not in this computer's memory."""
    steps: list[Step] = []
    for layer in _flat(layers):
        made = _step(layer)
        if made is None or any(p.device.type != "cpu" for p in layer.parameters()):
            return None
        steps.append(made)
    return steps


def affine(weight: torch.Tensor, bias: torch.Tensor) -> Step:
    """x·W + b of a weight (inputs, outputs)."""
    w, b = weight.detach().numpy(), bias.detach().numpy()
    return lambda x: x @ w + b


def run(steps: list[Step], observations: Array) -> npt.NDArray[np.float32]:
    """Observations (B, *shape) through the steps."""
    x: Array = observations.astype(np.float32, copy=False)
    for step in steps:
        x = step(x)
    return x


def _flat(layer: nn.Module) -> Iterator[nn.Module]:
    if isinstance(layer, nn.Sequential):
        for part in layer:
            yield from _flat(part)
    else:
        yield layer


def _step(layer: nn.Module) -> Step | None:
    match layer:
        case nn.Flatten():
            return lambda x: x.reshape(len(x), -1)
        case Rescale():
            scale = layer.scale.numpy()
            return lambda x: x / scale
        case Normaliser():
            mean, factor = layer.mean.numpy(), layer.scale.numpy()
            return lambda x: np.clip((x - mean) * factor, -LIMIT, LIMIT)
        case nn.ReLU():
            return lambda x: np.maximum(x, 0)
        case nn.Tanh():
            return np.tanh
        case nn.Linear() if type(layer) is nn.Linear:
            return affine(layer.weight.T, layer.bias)
    return None
