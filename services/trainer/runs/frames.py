"""Observations that stack frames, of which the replay keeps each frame once."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from services.common.errors import InvalidConfig
from services.common.replay.schema import Pad

# FrameStackObservation's names.
PADDING: dict[Pad, str] = {"first": "reset", "zero": "zero"}


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
