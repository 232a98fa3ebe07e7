"""Safe default actions, for callers that must act whatever happens here.

A default stands in place of an error that is the service's, and never of one that is the
request's. The reply says so: it is `degraded`, and of no version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import structlog

from services.common.action_space import ActionSpace, Box, Discrete
from services.common.errors import (
    DataCorrupted,
    InvalidInput,
    ResourceExhausted,
    TutelageError,
    Unavailable,
)
from services.common.server.calls import Call, Reply
from services.common.server.watching import note
from services.common.spec import PolicySpec
from services.common.wire import encode_elements
from services.inference import metrics
from services.inference.batching import Asked
from services.inference.core import PolicyCore, VersionRefused
from services.inference.decision_log import DecisionLog
from services.inference.decoding import Decoder, decode_masks
from services.inference.distribution import Masks
from services.inference.runner import ModelFailed
from services.inference.split import STABLE
from tutelage.v1 import policy_pb2 as pb

log = structlog.get_logger()

Action = int | list[Any]  # in JSON, as a policy's action space has it


class Fallback:
    """Answers calls of Act in place of an error.

    Args:
        defaults: by policy; a request may name another.
        decisions: where decisions are logged, if they are.
    """

    def __init__(
        self, core: PolicyCore, defaults: Mapping[str, Action], decisions: DecisionLog | None
    ) -> None:
        self._core, self._defaults, self._decisions = core, defaults, decisions
        self._said: set[str] = set()

    def has(self, policy: str) -> bool:
        """Whether the server has a default for a policy."""
        return policy in self._defaults

    def instead(self, call: Call, error: Exception) -> Reply:
        """What a call is answered in place of an error: a default action, or the error."""
        reason = reason_of(error)
        if reason is None:
            return error
        try:
            reply = self._default(call, reason)
        except Exception as other:  # noqa: BLE001 - whatever it is, the call is answered
            return other if isinstance(other, InvalidInput) else error
        return error if reply is None else reply

    def _default(self, call: Call, reason: str) -> bytes | None:
        request = pb.ActRequest.FromString(call.content)
        given = request.HasField("default_action")
        state = self._core.policy(request.policy)
        if state.spec is None or not (given or self.has(state.name)):
            return None
        seen = Decoder(state.spec.observation).one(request)
        mask = decode_masks(request.action_mask, 1, state.spec)
        action = (
            given_action(request.default_action, state.spec, mask)
            if given
            else self._own(state.name, state.spec, mask)
        )
        if action is None:
            return None
        metrics.DEGRADED.labels(state.name, reason).inc()
        note(call, policy=state.name, degraded=reason)
        if self._decisions is not None:
            asked = Asked("" if request.version else request.alias or STABLE, request.session)
            self._decisions.degraded(state.name, state.spec, asked, seen, mask, action)
        content: bytes = pb.ActResponse(
            action=_encoded(action, state.spec.action),
            degraded=True,
            recurrent_state=request.recurrent_state,  # which stands where it stood
        ).SerializeToString()
        return content

    def _own(self, policy: str, spec: PolicySpec, mask: Masks | None) -> np.ndarray | None:
        try:
            return checked(self._defaults[policy], spec, mask)
        except InvalidInput as error:
            if policy not in self._said:
                self._said.add(policy)
                log.error("default action cannot be taken", policy=policy, reason=str(error))
            return None


def reason_of(error: Exception) -> str | None:
    """Why there is a default action in place of an error; None where the error stands."""
    if isinstance(error, ResourceExhausted):
        return "full"
    if isinstance(error, VersionRefused | DataCorrupted | Unavailable):
        return "version"
    if isinstance(error, ModelFailed) or not isinstance(error, TutelageError):
        return "model"
    return None


def given_action(action: pb.Action, spec: PolicySpec, mask: Masks | None) -> np.ndarray:
    """A request's default action, (1, *shape).

    Raises:
        InvalidInput: when it is none of the policy's, or the mask forbids it.
    """
    elements = action.elements
    if not action.HasField("elements"):
        return checked(action.discrete, spec, mask)
    if elements.raw or isinstance(spec.action, Discrete):
        raise InvalidInput(f"default_action is given as {elements}, expected one of {spec.action}")
    return checked(list(elements.values), spec, mask)


def checked(given: int | Sequence[Any], spec: PolicySpec, mask: Masks | None) -> np.ndarray:
    """An action as an array (1, *shape) of the policy's own type.

    Args:
        given: the action's number, or its elements in row-major order, nested or not.
        mask: (1, actions) of what is allowed; None: everything is.

    Raises:
        InvalidInput: when it is none of the policy's, or the mask forbids it.
    """
    space, wrong = spec.action, f"default_action is {given}, expected one of {spec.action}"
    try:
        numbers = np.array(given, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise InvalidInput(wrong) from None
    if len(numbers) != space.size or not np.isfinite(numbers).all() or not _is_in(numbers, space):
        raise InvalidInput(wrong)
    if mask is not None and not _allowed(numbers, space, mask):
        raise InvalidInput(f"default_action is {given}, which the action mask forbids")
    return numbers.astype(space.dtype).reshape(1, *space.shape)


def _allowed(numbers: np.ndarray, space: ActionSpace, mask: Masks) -> bool:
    if isinstance(space, Box):
        return True
    return bool(mask[0, numbers.astype(np.intp) + np.array(space.starts)].all())


def _is_in(numbers: np.ndarray, space: ActionSpace) -> bool:
    if isinstance(space, Box):
        return bool(((numbers >= space.lower) & (numbers <= space.upper)).all())
    limits = np.array([space.n] if isinstance(space, Discrete) else space.nvec)
    return bool(((numbers >= 0) & (numbers < limits) & (numbers == np.floor(numbers))).all())


def _encoded(action: np.ndarray, space: ActionSpace) -> pb.Action:
    if isinstance(space, Discrete):
        return pb.Action(discrete=int(action[0]))
    return pb.Action(elements=encode_elements(action[0]))
