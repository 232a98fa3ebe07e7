"""From a policy's output to discrete actions, as pure functions on numpy arrays.

A row's outcome depends on that row alone and never on its company in a batch: every step
works along the last axis in float64, and randomness is a hash of the row's own seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]
Seeds = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, splitmix64's increment
_ROW = np.uint64(0xD1342543DE82EF95)  # odd, so that row · _ROW differs for every row
_UNIT = 2.0**-53
FEW_COLUMNS = 6


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided for the n rows of a batch.

    actions: n indices of Discrete actions, or an array (n, *shape) of others.
    log_probabilities: n natural logarithms of the chosen actions' probabilities.
    table: (n, actions) log-probabilities of all actions, -inf where the mask forbids; (n, 0)
        for actions in a Box.
    parameters: (n, parameters) values, logits, … as the policy gave them.
    """

    actions: list[int] | npt.NDArray[np.generic]
    log_probabilities: list[float]
    table: Floats
    parameters: npt.NDArray[np.float32]


def decide(
    parameters: npt.NDArray[np.float32],
    *,
    masks: Masks | None = None,
    temperatures: Floats | None = None,
    sampled: Masks | None = None,
    seeds: Seeds | None = None,
    epsilons: Floats | None = None,
) -> Decisions:
    """Choose an action for each row.

    Args:
        parameters: (n, actions) values or logits.
        masks: (n, actions), true where allowed, at least one a row; None allows all.
        temperatures: (n,) positive divisors before softmax; None is 1.
        sampled: (n,), whether the row is drawn; the others are greedy. None: all greedy.
        seeds: (n,) seeds of the drawn rows; read where `sampled` is true.
        epsilons: (n,) of the drawn rows that are drawn ε-greedily; NaN elsewhere.
    """
    allowed = parameters if masks is None else np.where(masks, parameters, -np.inf)
    table, logs = _normalised(allowed, temperatures)
    # Of the output itself: two values may differ and still have one log-probability.
    actions = allowed.argmax(axis=1)
    if sampled is None or seeds is None:
        # Of the greatest, whose exponential is 1, the sum's logarithm is all there is.
        return Decisions(actions.tolist(), (0.0 - logs[:, 0]).tolist(), table, parameters)
    if epsilons is not None:
        greedy = epsilon_greedy(np.isfinite(allowed), actions, epsilons)
        table = np.where(np.isnan(epsilons)[:, None], table, greedy)
    actions = np.where(sampled, sample(table, seeds), actions)
    chosen = table[np.arange(len(actions)), actions]
    return Decisions(actions.tolist(), chosen.tolist(), table, parameters)


def log_probabilities(
    allowed: npt.NDArray[np.floating], temperatures: Floats | None = None
) -> Floats:
    """Log-softmax of each row of (n, actions), in which -inf stands for forbidden actions."""
    return _normalised(allowed, temperatures)[0]


def _normalised(
    allowed: npt.NDArray[np.floating], temperatures: Floats | None
) -> tuple[Floats, Floats]:
    """The log-softmax, and the logarithm (n, 1) of the sum that was divided by."""
    shifted = np.array(allowed, dtype=np.float64)
    shifted -= _across(np.maximum, shifted)[:, None]
    if temperatures is not None:
        with np.errstate(over="ignore"):  # a tiny temperature takes all but the best to -inf
            shifted /= temperatures[:, None]
    logs: Floats = np.log(_across(np.add, np.exp(shifted)))[:, None]
    shifted -= logs
    return shifted, logs


def _across(operation: np.ufunc, table: Floats) -> Floats:
    """What an operation makes of each row of (n, actions), (n,).

    Few columns are taken one after another, for `reduce` begins anew for every row. Which way it
    goes depends on their number alone, so that a row gives the same in every batch.
    """
    columns = table.T
    if not 1 < len(columns) <= FEW_COLUMNS:
        whole: Floats = operation.reduce(table, axis=1)
        return whole
    result: Floats = operation(columns[0], columns[1])
    for column in columns[2:]:
        operation(result, column, out=result)
    return result


def epsilon_greedy(allowed: Masks, actions: npt.NDArray[np.int64], epsilons: Floats) -> Floats:
    """Log-probabilities (n, actions) of the ε-greedy choice: ε is spread over what is allowed.

    Args:
        allowed: (n, actions)
        actions: (n,) the greedy ones.
        epsilons: (n,)
    """
    chances = allowed * (epsilons / allowed.sum(axis=1))[:, None]
    chances[np.arange(len(actions)), actions] += 1 - epsilons
    with np.errstate(divide="ignore"):  # what is never taken
        table: Floats = np.log(chances)
    return table


def sample(table: Floats, seeds: Seeds) -> npt.NDArray[np.int64]:
    """Draw one action a row.

    Args:
        table: (n, actions) log-probabilities.
        seeds: (n,); the same seed and row give the same action.
    """
    return draw(table, uniforms(seeds))


def draw(table: Floats, shares: Floats) -> npt.NDArray[np.int64]:
    """The action of each row at which the cumulative distribution passes a share in [0, 1).

    Args:
        table: (n, actions) log-probabilities.
        shares: (n,)
    """
    cumulative = np.exp(table).cumsum(axis=1)
    threshold = shares * cumulative[:, -1]
    # Rounding can lift the threshold to the total: then it is the last action with a width.
    last = (cumulative < cumulative[:, -1:]).sum(axis=1)
    actions: npt.NDArray[np.int64] = np.minimum(
        (cumulative <= threshold[:, None]).sum(axis=1), last
    )
    return actions


def uniforms(seeds: Seeds) -> Floats:
    """A number in [0, 1) for each seed: splitmix64's first output, its upper 53 bits."""
    return (splitmix64(seeds) >> np.uint64(11)).astype(np.float64) * _UNIT


def uniform_rows(seeds: Seeds, count: int) -> Floats:
    """The first `count` numbers in [0, 1) of each seed's splitmix64, (n, count)."""
    return uniforms(seeds[:, None] + GOLDEN * np.arange(count, dtype=np.uint64))


def normals(seeds: Seeds, count: int) -> Floats:
    """`count` standard normal numbers for each seed, (n, count), by Box and Muller (1958)."""
    pairs = uniform_rows(seeds, 2 * count)
    radius = np.sqrt(-2 * np.log1p(-pairs[:, :count]))
    standard: Floats = radius * np.cos(2 * np.pi * pairs[:, count:])
    return standard


def row_seeds(seed: int, rows: int) -> Seeds:
    """Seeds of a batch's rows: the first is `seed`, the others follow from it, never 0."""
    first = np.full(rows, seed, dtype=np.uint64)
    derived = splitmix64(first ^ (np.arange(rows, dtype=np.uint64) * _ROW))
    derived[derived == 0] = GOLDEN
    derived[:1] = seed
    return derived


def splitmix64(states: Seeds) -> Seeds:
    """The output that splitmix64 gives from each state (Steele, Lea and Flood, 2014)."""
    z = states + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
