"""Who waits for Redis is answered, also when what Redis says cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from pending_call import PendingCall
from tiny_policies import CARTPOLE

from services.common.outcomes import RowMaker
from services.inference.batching import Question
from services.inference.decision_ids import DecisionId
from services.inference.distribution import Decisions
from services.inference.reporting import Reporting
from services.inference.tracking import Tracker
from tutelage.v1 import policy_pb2 as pb


class ImpossibleRedis:
    """Answers what none of its scripts does."""

    def record(self, decisions: Sequence[object]) -> int:
        return -1  # were forgotten

    def report(self, outcomes: Sequence[object]) -> list[object]:
        return []


STORES: Any = SimpleNamespace(
    declare=lambda policy, schema: None, waiting=lambda policy: ImpossibleRedis()
)
SERVED: Any = SimpleNamespace(
    manifest=SimpleNamespace(policy="probe", version=1), rows=RowMaker(CARTPOLE)
)


def test_a_decision_that_cannot_be_kept_is_answered_all_the_same() -> None:
    tracker, call = Tracker(STORES), PendingCall()
    take_over = tracker.tracked(pb.ActRequest(track=True), SERVED, DecisionId.draw("probe"))
    question = Question(call, lambda *_: b"", np.zeros((1, 4), np.float32), 1)
    decisions = Decisions([0], [0.0], np.zeros((1, 2)), np.zeros((1, 2), np.float32))
    assert take_over(question, decisions, 0, b"the reply") is None
    assert call.wait() == b"the reply"
    tracker.close(10)


def test_an_outcome_that_cannot_be_kept_is_answered() -> None:
    core: Any = SimpleNamespace(policy=lambda name: SimpleNamespace(serving={"stable": SERVED}))
    reporting = Reporting(core, STORES)
    request = pb.ReportOutcomeRequest(decision_id="0" * 16 + ".probe", terminated=True)
    call = PendingCall(request.SerializeToString())
    assert reporting.report([call]) == [None]
    assert isinstance(call.wait(), ValueError)
    reporting.close(10)
