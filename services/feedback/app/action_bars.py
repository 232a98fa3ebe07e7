"""A decision as bars: how probable each choice was, or where in its bounds each number lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tutelage import Decision
from tutelage.v1 import policy_pb2 as pb


@dataclass(frozen=True)
class Bar:
    """One bar: its length from 0 to 1, what is written beside it, and whether it was chosen."""

    share: float
    text: str
    chosen: bool


def names(space: pb.ActionSpace) -> list[str]:
    """What each bar stands for: an action, a component's choice, or an element of a Box."""
    match space.kind:
        case pb.ACTION_KIND_MULTI_DISCRETE:
            return [f"{i}: {choice}" for i, n in enumerate(space.nvec) for choice in range(n)]
        case pb.ACTION_KIND_BOX:
            return [f"element {i}" for i in range(len(space.low))]
    return list(space.names) or [f"action {i}" for i in range(space.n)]


def bars(space: pb.ActionSpace, decision: Decision) -> list[Bar]:
    """A bar for each of `names`."""
    if space.kind == pb.ACTION_KIND_BOX:
        elements = np.asarray(decision.action, float).ravel().tolist()
        bounds = zip(elements, space.low, space.high, strict=True)
        return [Bar(_place(x, low, high), f"{x:.2f}", True) for x, low, high in bounds]
    starts = np.cumsum([0, *space.nvec[:-1]])
    chosen = set((np.atleast_1d(decision.action) + starts).tolist())
    shares = [] if decision.probabilities is None else decision.probabilities.tolist()
    return [Bar(p, f"{p:.0%}", i in chosen) for i, p in enumerate(shares)]


def _place(number: float, low: float, high: float) -> float:
    """Where a number lies between its bounds; without them, after squashing it."""
    if math.isfinite(low) and math.isfinite(high):
        return (number - low) / (high - low)
    return (1 + math.tanh(number)) / 2
