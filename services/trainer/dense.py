"""Perceptrons with their gradients in the fewest calls.

Autograd's bookkeeping costs as much as the arithmetic of layers of a few hundred units, so that
a learner that makes many small updates is better off without it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from services.trainer.encoders import Rescale
from services.trainer.networks import QNetwork


class Dense:
    """A network of action values that knows its own gradient.

    Args:
        given: layers before the first that is learnt.
        layers: the others.
    """

    def __init__(self, given: nn.Sequential, layers: list[Layer]) -> None:
        self._given, self._layers = given, layers

    def forward(self, observations: Tensor) -> Tensor:
        """(B, *observation) → (B, actions), and what `backward` will need."""
        x: Tensor = self._given(observations.float())
        for layer in self._layers:
            x = layer.forward(x)
        return x

    def backward(self, gradient: Tensor) -> None:
        """Set the parameters' gradients from that of the values given last, (B, actions)."""
        first, *others = self._layers
        for layer in reversed(others):
            gradient = layer.backward(gradient)
        first.backward(gradient, to_inputs=False)


class Layer(Protocol):
    """A function that keeps what its derivative needs."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) → (B, outputs)"""
        ...

    def backward(self, gradient: Tensor, to_inputs: bool = True) -> Tensor:
        """Of the outputs → of the inputs, unless nobody asks; sets those of the parameters."""
        ...


def dense(network: QNetwork) -> Dense | None:
    """A network as `Dense`, by its weights as they change; None where it has layers of another
    kind. To go backward, its parameters need gradients to write to."""
    if network.config.quantiles or not isinstance(network.head, nn.Linear):
        return None
    modules = [*network.trunk, network.head]
    given = [module for module in modules if isinstance(module, nn.Flatten | Rescale)]
    layers = [_layer(module) for module in modules[len(given) :]]
    known = [layer for layer in layers if layer is not None]
    return Dense(nn.Sequential(*given), known) if len(known) == len(layers) else None


def _layer(module: nn.Module) -> Layer | None:
    match module:
        case nn.Linear():
            return _Linear(module)
        case nn.LayerNorm():
            return _LayerNorm(module)
        case nn.ReLU():
            return _ReLU()
    return None


class _Linear:
    def __init__(self, module: nn.Linear) -> None:
        self._weight, self._bias = module.weight, module.bias

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        return torch.addmm(self._bias, x, self._weight.t())

    def backward(self, gradient: Tensor, to_inputs: bool = True) -> Tensor:
        assert self._weight.grad is not None
        torch.mm(gradient.t(), self._x, out=self._weight.grad)
        torch.sum(gradient, 0, out=self._bias.grad)
        return torch.mm(gradient, self._weight) if to_inputs else gradient


class _LayerNorm:
    def __init__(self, module: nn.LayerNorm) -> None:
        self._weight, self._bias, self._epsilon = module.weight, module.bias, module.eps
        self._shape = list(module.normalized_shape)

    def forward(self, x: Tensor) -> Tensor:
        y, mean, deviation = torch.native_layer_norm(
            x, self._shape, self._weight, self._bias, self._epsilon
        )
        self._kept = x, mean, deviation
        return y

    def backward(self, gradient: Tensor, to_inputs: bool = True) -> Tensor:
        x, mean, deviation = self._kept
        inputs, weight, bias = torch.ops.aten.native_layer_norm_backward(
            *(gradient, x, self._shape, mean, deviation, self._weight, self._bias),
            [to_inputs, True, True],
        )
        assert self._weight.grad is not None
        assert self._bias.grad is not None
        self._weight.grad.copy_(weight)
        self._bias.grad.copy_(bias)
        return inputs if to_inputs else gradient


class _ReLU:
    def forward(self, x: Tensor) -> Tensor:
        self._y = x.relu_()  # what came before keeps none of its outputs
        return self._y

    def backward(self, gradient: Tensor, to_inputs: bool = True) -> Tensor:
        inputs: Tensor = torch.ops.aten.threshold_backward(gradient, self._y, 0)
        return inputs
