"""From a policy's output to actions of several components or elements, beside `distribution`.

As there, a row's outcome depends on that row alone.
"""

from __future__ import annotations

import functools
import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.common.action_space import Box, MultiDiscrete
from services.common.spec import Distribution, PolicySpec
from services.inference.distribution import (
    Decisions,
    Floats,
    Masks,
    Seeds,
    decide,
    draw,
    log_probabilities,
    normals,
    uniform_rows,
)

Parameters = npt.NDArray[np.float32]
_LOG_ROOT_TAU = math.log(math.tau) / 2
_LOG_STD_LIMIT = 50.0  # keeps the standard deviation from 0 and from infinity
_ERFC_TINY = -37.0  # Φ of less is no float64


class Decider(Protocol):
    """Chooses an action for each row; arguments as in `distribution.decide`."""

    def __call__(
        self,
        parameters: Parameters,
        *,
        masks: Masks | None = None,
        temperatures: Floats | None = None,
        sampled: Masks | None = None,
        seeds: Seeds | None = None,
        epsilons: Floats | None = None,
    ) -> Decisions:
        """Decide; ε-greedily among Discrete actions only."""
        ...


def decider(spec: PolicySpec) -> Decider:
    """What chooses actions of a policy with this spec."""
    match spec.action:
        case MultiDiscrete() as space:
            return functools.partial(decide_components, space)
        case Box() as space if spec.distribution == Distribution.DETERMINISTIC:
            return functools.partial(decide_nothing, space)
        case Box() as space:
            squashed = spec.distribution == Distribution.TANH_GAUSSIAN
            return functools.partial(decide_elements, space, squashed)
    return decide


def decide_components(
    space: MultiDiscrete,
    parameters: Parameters,
    *,
    masks: Masks | None = None,
    temperatures: Floats | None = None,
    sampled: Masks | None = None,
    seeds: Seeds | None = None,
    epsilons: Floats | None = None,
) -> Decisions:
    """Choose each component of MultiDiscrete actions from its own logits."""
    allowed = parameters if masks is None else np.where(masks, parameters, -np.inf)
    parts = np.split(allowed, space.starts[1:], axis=1)
    tables = [log_probabilities(part, temperatures) for part in parts]
    actions = np.stack([part.argmax(axis=1) for part in parts], axis=1)
    if sampled is not None and seeds is not None:
        shares = uniform_rows(seeds, len(tables))
        drawn = [draw(table, shares[:, i]) for i, table in enumerate(tables)]
        actions = np.where(sampled[:, None], np.stack(drawn, axis=1), actions)
    table = np.concatenate(tables, axis=1)
    chosen = np.take_along_axis(table, actions + np.array(space.starts), axis=1).sum(axis=1)
    return Decisions(actions, chosen.tolist(), table, parameters)


def decide_elements(
    space: Box,
    squashed: bool,
    parameters: Parameters,
    *,
    masks: Masks | None = None,
    temperatures: Floats | None = None,
    sampled: Masks | None = None,
    seeds: Seeds | None = None,
    epsilons: Floats | None = None,
) -> Decisions:
    """Choose actions in a Box from a diagonal Gaussian, squashed by tanh or clipped.

    Args:
        parameters: (n, 2·size) means and log standard deviations, in normalised units.
    """
    mean, log_std = np.split(parameters.astype(np.float64), 2, axis=1)
    log_std = np.clip(log_std, -_LOG_STD_LIMIT, _LOG_STD_LIMIT)
    if temperatures is not None:
        log_std = log_std + np.log(temperatures)[:, None] / 2
    noise = np.zeros_like(mean)
    if sampled is not None and seeds is not None:
        noise = np.where(sampled[:, None], normals(seeds, space.size), 0)
    point = mean + np.exp(log_std) * noise
    density = -(noise**2) / 2 - log_std - _LOG_ROOT_TAU - np.log(space.half)
    if squashed:
        density -= _log_slope_of_tanh(point)
        point = np.tanh(point)
    else:
        density = _clipped(space, density, point, mean, log_std)
    none = np.zeros((len(mean), 0))
    return Decisions(space.rescale(point), density.sum(axis=1).tolist(), none, parameters)


def decide_nothing(
    space: Box,
    parameters: Parameters,
    *,
    masks: Masks | None = None,
    temperatures: Floats | None = None,
    sampled: Masks | None = None,
    seeds: Seeds | None = None,
    epsilons: Floats | None = None,
) -> Decisions:
    """The actions that a deterministic policy has chosen already, (n, size)."""
    rows = len(parameters)
    actions = parameters.astype(space.dtype).reshape(rows, *space.shape)
    return Decisions(actions, [0.0] * rows, np.zeros((rows, 0)), parameters)


def _clipped(space: Box, density: Floats, point: Floats, mean: Floats, log_std: Floats) -> Floats:
    """Log-densities (n, size), and where a point is clipped the log of all that is clipped so
    (Fujita & Maeda 2018)."""
    lower = (space.lower - space.centre) / space.half
    upper = (space.upper - space.centre) / space.half
    below, above = point <= lower, point >= upper
    if not (below | above).any():
        return density
    ends = np.where(below, lower - mean, mean - upper)  # how far outside the bound its mean is
    outside = below | above
    density[outside] = _log_normal_cdf((ends[outside]) / np.exp(log_std[outside]))
    return density


def _log_slope_of_tanh(x: Floats) -> Floats:
    """log(1 - tanh²x) without cancellation."""
    slope: Floats = 2 * (math.log(2) - x - np.logaddexp(0, -2 * x))
    return slope


def _log_normal_cdf(z: Floats) -> Floats:
    """log Φ(z), (n,); far below 0 by its asymptote."""
    return np.array([_log_phi(float(value)) for value in z])


def _log_phi(z: float) -> float:
    if z < _ERFC_TINY:
        return -z * z / 2 - math.log(-z) - _LOG_ROOT_TAU
    return math.log(math.erfc(-z / math.sqrt(2)) / 2)
