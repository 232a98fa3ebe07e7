"""What a learner of action values learns from: a batch of the replay, made ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.replay import Batch, SequenceBatch
from services.trainer.action_masks import MASK, Masks
from services.trainer.observations import rows as rows_of

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Experience:
    """B transitions, each over one or more steps.

    observation, next_observation: (B, *shape) before the first step and after the last; of a Dict
        its parts as one row of numbers, (B, size).
    action: (B,) of the first step.
    reward: (B,) Σ γᵏ·rₖ over the steps taken.
    discount: (B,) γ to their number; 0 when the last of them terminated, never for a truncation.
    next_action: (B,) int64 taken in the state reached, -1 where none was; None: not asked for.
    next_mask: (B, A) which actions the state reached allows; None: all.
    weights: (B,) of the transitions in the loss; None: 1.
    """

    observation: npt.NDArray[Any]
    action: npt.NDArray[np.integer]
    reward: Floats
    discount: Floats
    next_observation: npt.NDArray[Any]
    next_action: npt.NDArray[np.int64] | None = None
    next_mask: Masks | None = None
    weights: Floats | None = None


def from_transitions(batch: Batch, weighted: bool = False) -> Experience:
    """Sampled transitions, with their importance weights or without."""
    return Experience(
        rows_of(batch.observation),
        batch.action,
        batch.reward,
        batch.discount,
        rows_of(batch.next_observation),
        next_mask=batch.next_extras.get(MASK),
        weights=batch.weights if weighted else None,
    )


def from_stretches(batch: SequenceBatch, discount: float, weighted: bool = False) -> Experience:
    """Stretches of n + 1 steps as transitions of n, with the action of the step after them.

    A stretch that is shorter, because the episode ends there or has gone no further yet, has
    nothing after it.
    """
    steps = batch.mask.shape[1] - 1
    taken, rows = batch.mask[:, :steps], np.arange(len(batch))  # (B, n)
    powers = np.float32(discount) ** np.arange(steps + 1, dtype=np.float32)
    count = taken.sum(axis=1)  # (B,) at least 1
    last = count - 1
    goes_on = ~batch.terminated[rows, last]
    masks = batch.next_extras.get(MASK)  # (B, n + 1, A)
    return Experience(
        _at(batch.observation, (slice(None), 0)),
        batch.action[:, 0],
        (batch.reward[:, :steps] * taken * powers[:steps]).sum(axis=1, dtype=np.float32),
        powers[count] * goes_on,
        _at(batch.next_observation, (rows, last)),
        next_action=np.where(batch.mask[:, steps], batch.action[:, steps], -1).astype(np.int64),
        next_mask=None if masks is None else masks[rows, last],
        weights=batch.weights if weighted else None,
    )


def _at(observation: Any, index: tuple[Any, Any]) -> npt.NDArray[Any]:
    """One step's observation of each stretch (B, L, …)."""
    if isinstance(observation, dict):
        return rows_of({key: part[index] for key, part in observation.items()})
    steps: npt.NDArray[Any] = observation[index]
    return steps
