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
from services.trainer.networks import DuelingHead, LeashedQNetwork, QNetwork
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


def q_steps(network: QNetwork) -> list[Step] | None:
    """A network's action values as `numpy_steps`: (B, *observation) → (B, actions)"""
    head = network.head
    parts = [
        numpy_steps(network.trunk),
        _dueling(head) if isinstance(head, DuelingHead) else numpy_steps(head),
    ]
    if network.config.quantiles:
        shape = (-1, network.spec.actions, network.config.quantiles)
        parts.append([lambda x: x.reshape(shape).mean(axis=2)])
    known = [part for part in parts if part is not None]
    return [step for part in known for step in part] if len(known) == len(parts) else None


def leashed_steps(network: LeashedQNetwork) -> list[Step] | None:
    """The values of a policy under KL control as `numpy_steps`: (B, *observation) → (B, actions)"""
    prior, correction = _values(network.base), q_steps(network.correction)
    if prior is None or correction is None:
        return None

    def values(x: Array) -> Array:
        scaled = run(prior, x) / network.prior_temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        held: Array = network.temperature * np.maximum(scaled, network.floor)
        return held + run(correction, x)

    return [values]


def _values(network: nn.Module) -> list[Step] | None:
    match network:
        case QNetwork():
            return q_steps(network)
        case LeashedQNetwork():
            return leashed_steps(network)
    return None


def _dueling(head: DuelingHead) -> list[Step] | None:
    value, advantage = numpy_steps(head.value), numpy_steps(head.advantage)
    if value is None or advantage is None:
        return None
    shape = (-1, head.actions, head.outputs)

    def combined(x: Array) -> Array:
        each = run(advantage, x).reshape(shape)
        whole: Array = each + (run(value, x)[:, None] - each.mean(axis=1, keepdims=True))
        return whole.reshape(len(x), -1)

    return [combined]


def affine(weight: torch.Tensor, bias: torch.Tensor) -> Step:
    """x·W + b of a weight (inputs, outputs)."""
    w, b = weight.detach().numpy(), bias.detach().numpy()
    return lambda x: x @ w + b


def normalised(gain: torch.Tensor, shift: torch.Tensor, epsilon: float = 1e-5) -> Step:
    """LayerNorm (Ba et al. 2016) with a gain and a shift of (width,)."""
    g, b = gain.detach().numpy(), shift.detach().numpy()

    def step(x: Array) -> Array:
        centred: Array = x - x.mean(axis=1, keepdims=True)
        variance = np.einsum("bi,bi->b", centred, centred) / centred.shape[1]
        centred /= np.sqrt(variance + epsilon)[:, None]
        centred *= g
        centred += b
        return centred

    return step


def run(steps: list[Step], observations: Array) -> npt.NDArray[np.float32]:
    """Observations (B, *shape) through the steps."""
    x: Array = observations.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):  # what diverges is found by its loss
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
        case nn.LayerNorm():
            return normalised(layer.weight, layer.bias, layer.eps)
        case nn.Linear() if type(layer) is nn.Linear:
            return affine(layer.weight.T, layer.bias)
    return None
