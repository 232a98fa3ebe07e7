"""How the steps of a policy are stored: what it takes and gives, as columns of a replay."""

from __future__ import annotations

from services.common.errors import InvalidConfig
from services.common.replay.schema import Field, Pad, ReplaySchema
from services.common.spec import OBSERVATION, DictSpace, PolicySpec

MASK = "action_mask"


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
