"""What a request says of how its action is chosen, checked against the policy's spec."""

from __future__ import annotations

import math

from services.common.action_space import Discrete
from services.common.errors import InvalidInput
from services.common.spec import Distribution, PolicySpec
from tutelage.v1 import policy_pb2 as pb

Choosing = pb.ActRequest | pb.ActBatchRequest
_SELECTIONS = (
    pb.ACTION_SELECTION_UNSPECIFIED,
    pb.ACTION_SELECTION_GREEDY,
    pb.ACTION_SELECTION_SAMPLE,
    pb.ACTION_SELECTION_EPSILON_GREEDY,
)


def temperature_of(request: Choosing) -> float:
    """What the request divides values by; 1 where it does not say.

    Raises:
        InvalidInput: when that is not positive and finite.
    """
    if not request.HasField("temperature"):
        return 1.0
    temperature = request.temperature
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InvalidInput(f"temperature is {temperature}, expected a positive finite number")
    return temperature


def is_drawn(request: Choosing, spec: PolicySpec) -> bool:
    """Whether an action is drawn, wholly or with a probability ε.

    Raises:
        InvalidInput: when the selection is none, or there is nothing to draw.
    """
    selection = request.selection
    if selection not in _SELECTIONS:
        raise InvalidInput(
            f"selection is {selection}, expected 1 (greedy), 2 (sample) or 3 (ε-greedy)"
        )
    if selection == pb.ACTION_SELECTION_SAMPLE and spec.distribution == Distribution.DETERMINISTIC:
        raise InvalidInput(
            "the policy is deterministic, so that there is nothing to sample; "
            "expected selection 1 (greedy)"
        )
    return selection >= pb.ACTION_SELECTION_SAMPLE


def epsilon_of(request: Choosing, spec: PolicySpec) -> float | None:
    """ε of an ε-greedy choice; None for any other.

    Raises:
        InvalidInput: when it is missing, no probability, or of a choice that has none.
    """
    given = request.HasField("epsilon")
    if request.selection != pb.ACTION_SELECTION_EPSILON_GREEDY:
        if given:
            raise InvalidInput("epsilon is for selection 3 (ε-greedy); say that, or leave it out")
        return None
    if not isinstance(spec.action, Discrete):
        raise InvalidInput(
            f"an ε-greedy choice is one of Discrete actions, but the policy acts in {spec.action}"
        )
    if not (given and 0 <= request.epsilon <= 1):
        said = f"is {request.epsilon}" if given else "is missing"
        raise InvalidInput(f"epsilon {said}, expected a probability from 0 to 1")
    if request.HasField("temperature"):
        raise InvalidInput("an ε-greedy choice has no temperature; leave it out")
    return request.epsilon
