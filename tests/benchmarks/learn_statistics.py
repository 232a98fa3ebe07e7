"""How the returns of several seeds are summed up (Agarwal et al. 2021, rliable)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def interquartile_mean(scores: npt.ArrayLike) -> float:
    """Mean of what remains when a quarter is cut off at each end, rounded down.

    Args:
        scores: (n ≥ 1,)
    """
    ranked = np.sort(np.asarray(scores, dtype=np.float64))
    cut = len(ranked) // 4
    return float(ranked[cut : len(ranked) - cut].mean())


def stratified_bootstrap(
    strata: Sequence[npt.ArrayLike],
    statistic: Callable[[npt.ArrayLike], float],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of a statistic over all scores.

    Args:
        strata: the scores of each task, (runs,); each is drawn from anew by itself.
        statistic: of the scores together.
    """
    generator = np.random.default_rng(seed)
    tasks = [np.asarray(task, dtype=np.float64) for task in strata]
    drawn = [
        statistic(np.concatenate([generator.choice(task, len(task)) for task in tasks]))
        for _ in range(resamples)
    ]
    outside = (1 - confidence) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return float(low), float(high)


def binned(steps: Sequence[int], values: Sequence[float], width: int) -> list[tuple[int, float]]:
    """Means of the values of each `width` steps, by where those end; empty bins are left out."""
    bins: dict[int, list[float]] = {}
    for step, value in zip(steps, values, strict=True):
        bins.setdefault((step - 1) // width, []).append(value)
    return [((k + 1) * width, float(np.mean(bins[k]))) for k in sorted(bins)]


def first_reached(
    moments: Sequence[float], returns: Sequence[float], threshold: float, window: int = 20
) -> float | None:
    """When the mean of the last `window` returns first was at least the threshold; None: never.

    Args:
        moments: (n,) of the ends of episodes.
        returns: (n,) of these episodes.
    """
    for end in range(window, len(returns) + 1):
        if np.mean(returns[end - window : end]) >= threshold:
            return moments[end - 1]
    return None
