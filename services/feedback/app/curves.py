"""Curves of runs on common steps, so that they can be compared and drawn together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from services.feedback.app.run_history import RunHistory, running_means

POINTS = 160
TRIMMED = 0.25  # of each end, for the interquartile mean

Array = npt.NDArray[np.float64]


class Summary(StrEnum):
    """What stands for runs that differ in nothing but their seed."""

    EACH = "Each run"
    MEAN = "Mean of seeds"
    IQM = "IQM of seeds"


@dataclass(frozen=True)
class Band:
    """One line and what surrounds it, on a grid of steps (T,); NaN where there is nothing.

    low, high: of the runs; with the interquartile mean, of the middle half of them.
    runs: how many there are at each step.
    """

    value: Array
    low: Array
    high: Array
    runs: npt.NDArray[np.int64]


def return_points(history: RunHistory) -> list[tuple[int, float]]:
    """Environment steps, and the mean return of the last 100 episodes by then."""
    means = running_means([episode.episode_return for episode in history.episodes])
    steps = (episode.env_steps for episode in history.episodes)
    return list(zip(steps, means, strict=True))


def grid(last_step: int, *, log: bool) -> Array:
    """Steps at which curves are compared: evenly spread, or evenly in their logarithm."""
    if log:
        return np.geomspace(max(last_step / 1000, 1), max(last_step, 2), POINTS).round()
    return np.linspace(0, max(last_step, 1), POINTS).round()


def on_grid(points: Sequence[tuple[int, float]], steps: Array, *, hold: bool) -> Array:
    """A run's values at common steps: between its points, NaN before them and after.

    Args:
        hold: keep the last value to the end, for a run that is done before others are.
    """
    if not points:
        return np.full(len(steps), np.nan)
    at, values = np.asarray(points, dtype=np.float64).T
    right = values[-1] if hold else np.nan
    found: Array = np.interp(steps, at, values, left=np.nan, right=right)
    return found


def summarised(curves: Array, summary: Summary) -> Band:
    """One line for several runs (R, T). Where fewer than half of them are, there is none."""
    there = ~np.isnan(curves)
    runs = there.sum(axis=0)
    shown = np.flatnonzero(runs * 2 >= max(len(curves), 1))
    value, low, high = (np.full(curves.shape[1], np.nan) for _ in range(3))
    edge = TRIMMED if summary == Summary.IQM else 0.0
    for t in shown[runs[shown] > 0]:
        ordered = np.sort(curves[there[:, t], t])
        cut = int(edge * len(ordered))
        value[t] = ordered[cut : len(ordered) - cut].mean()
        low[t], high[t] = np.quantile(ordered, [edge, 1 - edge])
    return Band(value, low, high, runs)
