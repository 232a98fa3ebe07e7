"""n-step transitions, built at sampling from stored one-step rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.replay.schema import Rows
from services.common.replay.successors import NONE, Index

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NStepBatch:
    """Transitions over up to n steps. B is the batch.

    observation: (B, *shape) acted in.
    action: (B,) int32.
    reward: (B,) Σ γᵏ·rₖ over the steps taken.
    discount: (B,) γ to the number of steps taken; 0 when the last of them terminated.
    next_observation: (B, *shape) after the last step, of the same episode.
    """

    observation: npt.NDArray[Any]
    action: npt.NDArray[np.int32]
    reward: Floats
    discount: Floats
    next_observation: npt.NDArray[Any]


def n_step_batch(ring: Rows, next_slot: Index, slots: Index, n: int, discount: float) -> NStepBatch:
    """Look n steps ahead of the rows in `slots`, fewer where the episode ends.

    Where the episode is still going on at the newest row, fewer steps are looked ahead too:
    the value of the state reached stands for the rest.

    Args:
        ring: (capacity,) rows.
        next_slot: (capacity,) slot of each row's successor, or -1.
        slots: (B,)
    """
    last = slots
    reward = ring["reward"][slots].astype(np.float32)
    factor = np.full(len(slots), discount, dtype=np.float32)
    for _ in range(n - 1):
        following = next_slot[last]
        going = following != NONE  # an episode's last row has no successor
        if not going.any():
            break
        last = np.where(going, following, last)
        reward += np.where(going, factor * ring["reward"][last], 0).astype(np.float32)
        factor = np.where(going, factor * discount, factor).astype(np.float32)
    return NStepBatch(
        observation=ring["observation"][slots],
        action=ring["action"][slots],
        reward=reward,
        discount=np.where(ring["terminated"][last], 0, factor).astype(np.float32),
        next_observation=ring["next_observation"][last],
    )
