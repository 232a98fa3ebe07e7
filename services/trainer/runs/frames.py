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
    observation, shape = spec.observation, spec.observation.shape
    if stack > 1 and shape[:1] != (stack,):
        raise InvalidConfig(
            f"replay.frame_stack is {stack}, but observations are of shape {shape}, expected "
            f"{stack} frames on the first axis"
        )
    action = "int32" if spec.action.dtype == "int64" else spec.action.dtype
    return ReplaySchema.transitions(
        shape[1:] if stack > 1 else shape,
        observation.dtype,
        stack,
        extras=(Field(MASK, "bool", (spec.action.choices,)),) if spec.masked else (),
        action=Field("action", action, spec.action.shape),
    )


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
