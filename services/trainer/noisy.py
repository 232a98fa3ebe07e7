"""Linear layers whose weights carry noise that is learnt (Fortunato et al. 2018, NoisyNet)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

INITIAL_NOISE = 0.5


class NoisyLinear(nn.Module):
    """y = (μ_w + σ_w ⊙ f(ε_out) f(ε_in)ᵀ) x + μ_b + σ_b ⊙ f(ε_out), with f(x) = sgn(x)·√|x|.

    The noise is factorised (eq. 10). It stays as it is until `resample`, is 0 before the
    first one, and counts in training mode alone: in evaluation mode the weights are μ.
    """

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_noise = nn.Parameter(torch.full((outputs, inputs), INITIAL_NOISE * bound))
        self.bias_noise = nn.Parameter(torch.full((outputs,), INITIAL_NOISE * bound))
        self.register_buffer("noise_in", torch.zeros(inputs), persistent=False)
        self.register_buffer("noise_out", torch.zeros(outputs), persistent=False)

    def set_noise(self, noise_in: Tensor, noise_out: Tensor) -> None:
        """Take ε, (inputs,) and (outputs,), from now on."""
        self.noise_in.copy_(noise_in.sign() * noise_in.abs().sqrt())
        self.noise_out.copy_(noise_out.sign() * noise_out.abs().sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) → (B, outputs)"""
        if not self.training:
            return nn.functional.linear(x, self.weight, self.bias)
        weight = self.weight + self.weight_noise * torch.outer(self.noise_out, self.noise_in)
        return nn.functional.linear(x, weight, self.bias + self.bias_noise * self.noise_out)


def resample(network: nn.Module, generator: np.random.Generator) -> None:
    """Draw new noise for all of a network's noisy layers."""
    layers = [layer for layer in network.modules() if isinstance(layer, NoisyLinear)]
    sizes = [size for layer in layers for size in (layer.inputs, layer.outputs)]
    drawn = torch.from_numpy(generator.standard_normal(sum(sizes), dtype=np.float32))
    parts = iter(torch.split(drawn, sizes))
    for layer in layers:
        layer.set_noise(next(parts), next(parts))
