"""How far two versions' decisions on the same observations are apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.common.action_space import Box, MultiDiscrete
from services.common.spec import Distribution, PolicySpec
from services.inference.distribution import Floats, Masks, log_probabilities
from services.inference.vectors import decider

Parameters = npt.NDArray[np.float32]
APART = 0.1  # of a Box's half-width, in one element: then two actions are not the same
_LOG_STD_LIMIT = 50.0
_GAUSSIAN = (Distribution.GAUSSIAN, Distribution.TANH_GAUSSIAN)


class Apart(NamedTuple):
    """Of n observations.

    differ: (n,) whether the greedy actions are not the same.
    divergence: (n,) KL(first ‖ second) in nats; empty where there is none.
    """

    differ: npt.NDArray[np.bool_]
    divergence: Floats


def compare(
    spec: PolicySpec,
    parameters: Parameters,
    other_spec: PolicySpec,
    others: Parameters,
    masks: Masks | None = None,
) -> Apart:
    """Compare what two versions of one interface gave, each (n, parameters)."""
    space = spec.action
    if isinstance(space, Box):
        return Apart(
            _boxes_differ(space, spec, parameters, other_spec, others),
            _gaussian_divergence(spec, parameters, other_spec, others),
        )
    ours, theirs = (
        p if masks is None else np.where(masks, p, -np.inf) for p in (parameters, others)
    )
    starts = space.starts[1:] if isinstance(space, MultiDiscrete) else []
    parts = list(zip(np.split(ours, starts, axis=1), np.split(theirs, starts, axis=1), strict=True))
    differ = np.any([a.argmax(axis=1) != b.argmax(axis=1) for a, b in parts], axis=0)
    return Apart(differ, np.sum([_divergence(a, b) for a, b in parts], axis=0))


def _divergence(ours: npt.NDArray[np.floating], theirs: npt.NDArray[np.floating]) -> Floats:
    """KL of softmax distributions, (n, actions) → (n,); -inf is forbidden in both."""
    p, q = log_probabilities(ours), log_probabilities(theirs)
    chances = np.exp(p)
    with np.errstate(invalid="ignore"):  # what is never done counts nothing
        parts = np.where(chances > 0, chances * (p - q), 0.0)
    total: Floats = parts.sum(axis=1)
    return total


def _boxes_differ(
    space: Box, spec: PolicySpec, parameters: Parameters, other: PolicySpec, others: Parameters
) -> npt.NDArray[np.bool_]:
    ours = np.asarray(decider(spec)(parameters).actions, dtype=np.float64)
    theirs = np.asarray(decider(other)(others).actions, dtype=np.float64)
    off = np.abs(ours - theirs).reshape(len(ours), -1) / space.half
    differ: npt.NDArray[np.bool_] = np.any(off > APART, axis=1)
    return differ


def _gaussian_divergence(
    spec: PolicySpec, parameters: Parameters, other: PolicySpec, others: Parameters
) -> Floats:
    """Of diagonal Gaussians, before they are squashed or clipped alike, (n,)."""
    if spec.distribution != other.distribution or spec.distribution not in _GAUSSIAN:
        return np.zeros(0)
    mean, log_std = np.split(parameters.astype(np.float64), 2, axis=1)
    mean_2, log_std_2 = np.split(others.astype(np.float64), 2, axis=1)
    log_std, log_std_2 = (np.clip(s, -_LOG_STD_LIMIT, _LOG_STD_LIMIT) for s in (log_std, log_std_2))
    ratio = np.exp(2 * (log_std - log_std_2))
    distance = ((mean - mean_2) / np.exp(log_std_2)) ** 2
    total: Floats = ((ratio + distance - 1) / 2 + log_std_2 - log_std).sum(axis=1)
    return total
