"""Observations that stack frames, of which the replay keeps each frame once."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from services.common.errors import InvalidConfig
from services.common.replay import ReplaySchema
from services.common.spec import ObservationSpace


def replay_schema(observation: ObservationSpace, stack: int) -> ReplaySchema:
    """How steps that observe this are stored: of `stack` frames, each once.

    Raises:
        InvalidConfig: when observations do not begin with so many frames.
    """
    if stack == 1:
        return ReplaySchema.transitions(observation.shape, observation.dtype)
    if observation.shape[:1] != (stack,):
        raise InvalidConfig(
            f"replay.frame_stack is {stack}, but observations are of shape {observation.shape}, "
            f"expected {stack} frames on the first axis"
        )
    return ReplaySchema.transitions(observation.shape[1:], observation.dtype, stack)


def check_stacks(observations: npt.NDArray[Any], stack: int) -> None:
    """Refuse first observations (N, *shape) that the replay would not give back as they are.

    Raises:
        InvalidConfig: when the frames of one are not all the same.
    """
    if stack > 1 and (observations != observations[:, -1:]).any():
        raise InvalidConfig(
            f"replay.frame_stack is {stack}, but an episode's first observation is not its first "
            "frame so many times; set frame_stack to 1, or stack with padding_type='reset'"
        )
