"""Several perceptrons of one form, computed side by side: half the calls, the same numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.trainer.acting import Step, affine, normalised, numpy_steps

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class StackedMLP(nn.Module):
    """N perceptrons. Each layer but the last of `sizes` ends in an activation; with `linear_end`
    the last does not.

    Args:
        sizes: from the inputs to the outputs.
    """

    def __init__(
        self,
        copies: int,
        sizes: tuple[int, ...],
        activation: str = "relu",
        layer_norm: bool = False,
        linear_end: bool = False,
    ) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        self._copies, self._normed = copies, layer_norm
        self._activation = ACTIVATIONS[activation]()
        self._activated = len(pairs) - linear_end
        self.weights = nn.ParameterList(torch.empty(copies, i, o) for i, o in pairs)
        self.biases = nn.ParameterList(torch.empty(copies, 1, o) for _, o in pairs)
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        if layer_norm:
            widths = [o for _, o in pairs[: self._activated]]
            self.gains = nn.ParameterList(torch.ones(copies, 1, o) for o in widths)
            self.shifts = nn.ParameterList(torch.zeros(copies, 1, o) for o in widths)
        # Plain tuples: a ParameterList looks each of them up by its name.
        self._layers = list(zip(self.weights, self.biases, strict=True))
        self._spread_evenly()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs), or (N, B, inputs) when they differ → (N, B, outputs)"""
        h = x if x.dim() == 3 else x.expand(self._copies, -1, -1)
        for i, (weight, bias) in enumerate(self._layers):
            h = self._activate(i, torch.baddbmm(bias, h, weight))
        return h

    def one(self, copy: int, x: Tensor) -> Tensor:
        """What one of them says: (B, inputs) → (B, outputs)"""
        for i, (weight, bias) in enumerate(self._layers):
            x = self._activate(i, torch.addmm(bias[copy], x, weight[copy]), copy)
        return x

    def numpy_steps(self, copy: int) -> list[Step] | None:
        """What one of them does, in numpy; None where it cannot be. See `acting`."""
        if self.weights[0].device.type != "cpu":
            return None
        steps: list[Step] = []
        for i, (weight, bias) in enumerate(self._layers):
            steps.append(affine(weight[copy], bias[copy, 0]))
            if i < self._activated and self._normed:
                steps.append(normalised(self.gains[i][copy, 0], self.shifts[i][copy, 0]))
            if i < self._activated:
                steps += numpy_steps(self._activation) or []
        return steps

    @torch.no_grad()
    def alone(self, copy: int) -> nn.Sequential:
        """One of them as ordinary layers, (B, inputs) → (B, outputs), with its weights now."""
        layers: list[nn.Module] = []
        for i, (weight, bias) in enumerate(self._layers):
            linear = nn.Linear(weight.shape[1], weight.shape[2], device=weight.device)
            linear.weight.copy_(weight[copy].T)
            linear.bias.copy_(bias[copy, 0])
            layers.append(linear)
            if i < self._activated and self._normed:
                norm = nn.LayerNorm(weight.shape[2], device=weight.device)
                norm.weight.copy_(self.gains[i][copy, 0])
                norm.bias.copy_(self.shifts[i][copy, 0])
                layers.append(norm)
            if i < self._activated:
                layers.append(self._activation)
        return nn.Sequential(*layers)

    def _activate(self, layer: int, h: Tensor, copy: int | None = None) -> Tensor:
        if layer >= self._activated:
            return h
        if self._normed:
            gain, shift = self.gains[layer], self.shifts[layer]
            if copy is not None:
                gain, shift = gain[copy], shift[copy]
            h = functional.layer_norm(h, h.shape[-1:]) * gain + shift
        activated: Tensor = self._activation(h)
        return activated

    def _spread_evenly(self) -> None:
        """As nn.Linear begins."""
        for weight, bias in self._layers:
            limit = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -limit, limit)
            nn.init.uniform_(bias, -limit, limit)

    def begin_orthogonal(self, gain: float) -> None:
        """Orthogonal weights and no biases, as policy gradients like to begin."""
        for weight, bias in self._layers:
            for matrix in weight:
                nn.init.orthogonal_(matrix, gain)
            nn.init.zeros_(bias)
