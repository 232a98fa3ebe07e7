"""ReportOutcome: checks what came of decisions, and keeps it in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.common.errors import (
    InvalidInput,
    NotFound,
    PreconditionFailed,
    ResourceExhausted,
    Unavailable,
)
from services.common.gathering import Gatherer
from services.common.outcomes import Outcome, Reported
from services.common.server.calls import Call, Reply, parse
from services.common.server.watching import note
from services.inference import metrics
from services.inference.core import PolicyCore
from services.inference.decision_ids import DecisionId
from services.inference.decoding import decode_masks
from services.inference.outcome_stores import OutcomeStores
from services.inference.versions import ServedVersion
from tutelage.v1 import policy_pb2 as pb

WAITING = 4096
NO_REDIS = (
    "this server keeps no decisions, so that no outcome can be reported: it has no Redis; "
    "set TUTELAGE_REDIS_URL"
)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class _Report:
    call: Call
    policy: str
    outcome: Outcome


class Reporting:
    """Answers ReportOutcome; without stores, with the reason why it cannot."""

    def __init__(self, core: PolicyCore, stores: OutcomeStores | None) -> None:
        self._core, self._stores = core, stores
        self._keeping = Gatherer("reporting", self._keep, WAITING, self._give_up)

    def report(self, calls: Sequence[Call]) -> list[Reply | None]:
        """One outcome a call; see BatchHandler."""
        return [self._begin(call) for call in calls]

    def close(self, timeout_s: float) -> None:
        """Answer what has come, and stop."""
        self._keeping.close(timeout_s)

    def _begin(self, call: Call) -> Reply | None:
        try:
            if self._stores is None:
                raise PreconditionFailed(NO_REDIS)
            report = self._read(call, self._stores)
        except Exception as error:  # noqa: BLE001 - one call must not fail the others
            return error
        if self._keeping.add(report):
            return None
        return ResourceExhausted(f"{WAITING} outcomes are waiting for Redis; report again")

    def _read(self, call: Call, stores: OutcomeStores) -> _Report:
        request = parse(pb.ReportOutcomeRequest, call)
        decision = DecisionId.parse(request.decision_id)
        if decision is None:
            raise NotFound(
                f"there is no decision {request.decision_id[:200]!r}; expected a decision_id that "
                "Act gave"
            )
        note(call, policy=decision.policy)
        served = self._served(decision.policy)
        stores.declare(decision.policy, served.rows.schema)
        _check_reward(request.reward)
        outcome = Outcome(
            decision.number,
            request.reward,
            request.terminated,
            request.truncated,
            _reached(request, served),
        )
        return _Report(call, decision.policy, outcome)

    def _served(self, policy: str) -> ServedVersion:
        served = next(iter(self._core.policy(policy).serving.values()), None)
        if served is None:
            raise Unavailable(f"no version of policy {policy!r} is served here yet; report again")
        return served

    def _keep(self, reports: list[_Report]) -> None:
        for policy in {report.policy for report in reports}:
            own = [report for report in reports if report.policy == policy]
            for report, reply in zip(own, self._replies(policy, own), strict=True):
                report.call.answer(reply)

    def _give_up(self, reports: list[_Report], error: Exception) -> None:
        for report in reports:
            report.call.answer(error)

    def _replies(self, policy: str, reports: list[_Report]) -> list[Reply]:
        assert self._stores is not None
        try:
            waiting = self._stores.waiting(policy)
            answers = waiting.report([report.outcome for report in reports])
        except Exception as error:  # noqa: BLE001 - whatever it is, each of them is answered
            return [error] * len(reports)
        return [self._reply(policy, answer) for answer in answers]

    def _reply(self, policy: str, answer: Reported) -> Reply:
        assert self._stores is not None
        metrics.OUTCOMES.labels(policy, answer.name.lower()).inc()
        if answer == Reported.UNKNOWN:
            return NotFound(
                f"policy {policy!r} has no such decision: decisions wait "
                f"{self._stores.limits.wait_s:g} s for their outcomes, the oldest less when there "
                "are many"
            )
        duplicate = answer == Reported.DUPLICATE
        content: bytes = pb.ReportOutcomeResponse(duplicate=duplicate).SerializeToString()
        return content


def _check_reward(reward: float) -> None:
    if not -_FLOAT32_MAX <= reward <= _FLOAT32_MAX:
        raise InvalidInput(f"reward is {reward}, expected a finite number, as a float32")


def _reached(request: pb.ReportOutcomeRequest, served: ServedVersion) -> bytes | None:
    """The packed state that the decision led to; None where another decision will have it."""
    given = request.HasField("next_observation")
    if not given and not request.next_observation_parts:
        if request.truncated and not request.terminated:
            raise InvalidInput(
                "the episode was cut short, so that the observation reached is needed to learn "
                f"from: give next_observation, {served.spec.observation}"
            )
        return None
    observed = pb.ActRequest(
        observation=request.next_observation if given else None,
        observation_parts=request.next_observation_parts,
    )
    try:
        observation = served.decoder.one(observed)
        mask = decode_masks(request.next_action_mask, 1, served.spec)
    except InvalidInput as error:
        raise InvalidInput(f"what the decision led to: {error}") from None
    return served.rows.reached(observation, mask)
