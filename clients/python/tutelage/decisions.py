"""What a policy decided, as it comes back from `act` and `act_batch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision, with all that is needed to make it again.

    action: index of a Discrete action, in [0, n); the components of a MultiDiscrete one,
        (components,) int64; or an array in a Box, in its own units, type and shape.
    version, digest: the version that chose it, and the SHA-256 of its model.
    log_probability: natural logarithm of the action's probability; in a Box, of its density.
    seed: of an action that is not greedy; with it, the version, and what else was sent, the
        same action is drawn again. 0 for a greedy action.
    probabilities: (n,) float64, when asked for; 0 where the mask forbids. Of a MultiDiscrete
        action those of each component, one after another; None in a Box.
    parameters: float64, when probabilities are asked for: (n,) values or logits, or means and
        log standard deviations of a Box's elements.
    value: when asked for: the discounted sum of rewards that the policy expects from here.
    decision_id: of a tracked decision, for `report`; "" where it is not tracked, also for want
        of Redis.
    state: what a recurrent policy has seen so far, where the caller carries it; opaque.
    state_reset: whether a recurrent policy remembered nothing, though no episode was said to
        start: it is the session's first decision, another version answers, or the service knows
        nothing of it any more.
    degraded: no model chose the action: it is the default that was named, or the service's own,
        in place of an error. Then there is no version, and the log-probability means nothing.
    """

    action: int | Array
    version: int
    digest: str
    log_probability: float
    seed: int
    probabilities: npt.NDArray[np.float64] | None = None
    parameters: npt.NDArray[np.float64] | None = None
    value: float | None = None
    decision_id: str = ""
    state: bytes = b""
    state_reset: bool = False
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions for a batch of n observations, in their order, all by one version.

    actions: (n,) int64, or (n, …) of MultiDiscrete and Box actions.
    log_probabilities: (n,) float64.
    seeds: (n,) uint64, each good for replaying its row with `act`; 0 when greedy.
    probabilities: (n, actions) float64, when asked for; None in a Box.
    parameters: (n, …) float64 as in Decision, when probabilities are asked for.
    values: (n,) float64, when asked for.
    state, state_reset: as in Decision, of all rows.
    """

    actions: Array
    version: int
    digest: str
    log_probabilities: npt.NDArray[np.float64]
    seeds: npt.NDArray[np.uint64]
    probabilities: npt.NDArray[np.float64] | None = None
    parameters: npt.NDArray[np.float64] | None = None
    values: npt.NDArray[np.float64] | None = None
    state: bytes = b""
    state_reset: bool = False

    def __len__(self) -> int:
        """Number of decisions."""
        return len(self.actions)
