"""Observations that stack frames, of which the replay keeps each frame once."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from services.common.errors import InvalidConfig
from services.common.replay import Field, ReplaySchema
from services.common.replay.schema import Pad
from services.common.spec import OBSERVATION, DictSpace, PolicySpec
from services.trainer.action_masks import MASK

# FrameStackObservation's names.
PADDING: dict[Pad, str] = {"first": "reset", "zero": "zero"}


def replay_schema(spec: PolicySpec, stack: int, pad: Pad = "first") -> ReplaySchema:
    """How a policy's steps are stored: of `stack` frames, each once.

    Args:
        pad: what stands before an episode's first frame.

    Raises:
        InvalidConfig: when observations do not begin with so many frames.
    """
    action = Field(
        "action",
        "int32" if spec.action.dtype == "int64" else spec.action.dtype,
        spec.action.shape,
    )
    extras = (Field(MASK, "bool", (spec.action.choices,)),) if spec.masked else ()
    observation = spec.observation
    if isinstance(observation, DictSpace):
        if stack > 1:
            raise InvalidConfig(
                f"replay.frame_stack is {stack}, but observations have several parts: {observation}"
            )
        fields = tuple(Field(n, s.dtype, s.shape) for n, s in observation.inputs.items())
        return ReplaySchema((*fields, *extras), action, dict.fromkeys(observation.parts))
    shape = observation.shape
    if stack > 1 and shape[:1] != (stack,):
        raise InvalidConfig(
            f"replay.frame_stack is {stack}, but observations are of shape {shape}, expected "
            f"{stack} frames on the first axis"
        )
    frame = shape[1:] if stack > 1 else shape
    frames = Field(OBSERVATION, observation.dtype, frame, stack, pad)
    return ReplaySchema((frames, *extras), action)


def check_stacks(observations: npt.NDArray[Any], stack: int, pad: Pad = "first") -> None:
    """Refuse first observations (N, *shape) that the replay would not give back as they are.

    Raises:
        InvalidConfig: when the frames of one are not all the same, or not all zero but the last.
    """
    if stack == 1:
        return
    before, first = observations[:, :-1], observations[:, -1:]
    if (before != (first if pad == "first" else 0)).any():
        so = "its first frame so many times" if pad == "first" else "its first frame after zeros"
        raise InvalidConfig(
            f"replay.frame_stack is {stack}, but an episode's first observation is not {so}; set "
            f"frame_stack to 1, or stack with padding_type='{PADDING[pad]}' or another frame_pad"
        )
