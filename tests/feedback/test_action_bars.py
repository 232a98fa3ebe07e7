"""What the Policy page shows of a decision."""

from __future__ import annotations

import numpy as np
import pytest

from services.feedback.app.action_bars import Bar, bars, names
from tutelage import Decision
from tutelage.v1 import policy_pb2 as pb


def decision(action: object, *probabilities: float) -> Decision:
    chances = np.array(probabilities) if probabilities else None
    return Decision(action, 1, "digest", 0.0, 0, chances)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("space", "decided", "expected_names", "expected"),
    [
        (
            pb.ActionSpace(n=2, names=["left", "right"]),  # as a service of before says it
            decision(1, 0.25, 0.75),
            ["left", "right"],
            [Bar(0.25, "25%", False), Bar(0.75, "75%", True)],
        ),
        (
            pb.ActionSpace(kind=pb.ACTION_KIND_MULTI_DISCRETE, nvec=[2, 2]),
            decision(np.array([1, 0]), 0.5, 0.5, 1, 0),
            ["0: 0", "0: 1", "1: 0", "1: 1"],
            [
                Bar(0.5, "50%", False),
                Bar(0.5, "50%", True),
                Bar(1, "100%", True),
                Bar(0, "0%", False),
            ],
        ),
        (
            pb.ActionSpace(kind=pb.ACTION_KIND_BOX, shape=[2], low=[-2, -np.inf], high=[2, 1]),
            decision(np.array([1, 0], np.float32)),
            ["element 0", "element 1"],
            [Bar(0.75, "1.00", True), Bar(0.5, "0.00", True)],
        ),
    ],
)
def test_bars_of_each_kind_of_action(
    space: pb.ActionSpace, decided: Decision, expected_names: list[str], expected: list[Bar]
) -> None:
    assert names(space) == expected_names
    assert bars(space, decided) == expected
