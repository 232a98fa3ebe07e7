"""Preferences as arrays, fetched from the feedback service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.errors import PreconditionFailed
from tutelage.v1 import feedback_pb2 as pb

LEFT, RIGHT, TIE = range(3)
_OUTCOMES = {pb.CHOICE_LEFT: LEFT, pb.CHOICE_RIGHT: RIGHT, pb.CHOICE_TIE: TIE}


@dataclass(frozen=True)
class PreferenceData:
    """S segments of at most T steps, and P preferences between them.

    observations: (S, T, *shape) float32, zeros after a segment's end.
    actions: (S, T) int64.
    mask: (S, T) true where there is a step.
    left, right: (P,) index of the segment.
    outcome: (P,) LEFT, RIGHT or TIE.
    held_out: (P,) true where only judged on.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    outcome: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        count, steps = self.mask.shape
        if self.observations.shape[:2] != (count, steps) or self.actions.shape != (count, steps):
            raise ValueError("observations, actions and mask are of different shapes")
        if not len(self.left) == len(self.right) == len(self.outcome) == len(self.held_out):
            raise ValueError("left, right, outcome and held_out are of different lengths")


def from_messages(
    preferences: list[pb.Preference], segments: dict[str, pb.Segment]
) -> PreferenceData:
    """Preferences without skips, as arrays.

    Raises:
        PreconditionFailed: when there is none.
    """
    judged = [p for p in preferences if p.choice in _OUTCOMES]
    if not judged:
        raise PreconditionFailed("there are no preferences yet; label some pairs first")
    names = sorted({n for p in judged for n in (p.left_segment_id, p.right_segment_id)})
    index = {name: i for i, name in enumerate(names)}
    used = [segments[name] for name in names]
    observations, actions, mask = _stack(used)
    return PreferenceData(
        observations=observations,
        actions=actions,
        mask=mask,
        left=np.array([index[p.left_segment_id] for p in judged]),
        right=np.array([index[p.right_segment_id] for p in judged]),
        outcome=np.array([_OUTCOMES[p.choice] for p in judged]),
        held_out=np.array([p.split == pb.SPLIT_HELD_OUT for p in judged]),
    )


def _stack(segments: list[pb.Segment]) -> tuple[npt.NDArray[Any], ...]:
    count, longest = len(segments), max(segment.length for segment in segments)
    shape = tuple(segments[0].observation_shape)
    observations = np.zeros((count, longest, *shape), np.float32)
    actions = np.zeros((count, longest), np.int64)
    mask = np.zeros((count, longest), bool)
    for i, segment in enumerate(segments):
        steps = int(segment.length)
        flat = np.frombuffer(segment.observations, "<f4")
        observations[i, :steps] = flat.reshape(steps, *shape)
        actions[i, :steps] = np.frombuffer(segment.actions, "<i8")
        mask[i, :steps] = True
    return observations, actions, mask
