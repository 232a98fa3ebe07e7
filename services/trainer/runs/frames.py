"""Observations that stack frames, of which the replay keeps each frame once."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from services.common.errors import InvalidConfig
from services.common.replay import Field, ReplaySchema
from services.common.spec import PolicySpec
from services.trainer.action_masks import MASK


def replay_schema(spec: PolicySpec, stack: int) -> ReplaySchema:
    """How a policy's steps are stored: of `stack` frames, each once.

    Raises:
        InvalidConfig: when observations do not begin with so many frames.
    """
    observation = spec.observation
    masks = (Field(MASK, "bool", (spec.actions,)),) if spec.masked else ()
    if stack == 1:
        return ReplaySchema.transitions(observation.shape, observation.dtype, extras=masks)
    if observation.shape[:1] != (stack,):
        raise InvalidConfig(
            f"replay.frame_stack is {stack}, but observations are of shape {observation.shape}, "
            f"expected {stack} frames on the first axis"
        )
    return ReplaySchema.transitions(observation.shape[1:], observation.dtype, stack, masks)


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
