"""The bare cost of an update: its matrix products alone, one after another in one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

REPEATS = 30


@dataclass(frozen=True)
class Passes:
    """How often a network is passed through in an update.

    backward: to weights, and to what each layer but the first took in.
    to_inputs: to what each layer took in, the first included, and not to weights.
    """

    forward: int = 0
    backward: int = 0
    to_inputs: int = 0


Products = tuple[tuple[int, tuple[int, ...], Passes], ...]
"""Batch, widths of the layers from the input on, passes."""
Shape = tuple[int, int, int]
"""(m, k, n) of a product (m, k) × (k, n)."""


def shapes(products: Products) -> Iterator[Shape]:
    """Each matrix product of an update."""
    for batch, widths, passes in products:
        layers = list(pairwise(widths))
        for _ in range(passes.forward):
            yield from ((batch, inputs, outputs) for inputs, outputs in layers)
        for _ in range(passes.backward):
            yield from ((inputs, batch, outputs) for inputs, outputs in layers)
            yield from ((batch, outputs, inputs) for inputs, outputs in layers[1:])
        for _ in range(passes.to_inputs):
            yield from ((batch, outputs, inputs) for inputs, outputs in layers)


def multiplications(all_shapes: Sequence[Shape]) -> int:
    """How many there are of numbers."""
    return sum(m * k * n for m, k, n in all_shapes)


def bare_us(products: Products) -> float:
    """Microseconds that the products of an update take; median of several times."""
    torch.set_num_threads(1)
    operands = [
        (torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)) for m, k, n in shapes(products)
    ]
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for a, b, out in operands:
            torch.mm(a, b, out=out)
        taken.append(time.perf_counter() - started)
    return 1e6 * statistics.median(taken)
