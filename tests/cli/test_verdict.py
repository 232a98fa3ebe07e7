"""The demo's table: what is asked of each figure, and what one that does not hold means."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.cli.demo.episodes import Driven
from services.cli.demo.journeys import (
    MAX_LABELS,
    MAX_SECONDS,
    NEAR_AFTER,
    NEAR_BEFORE,
    SOLVED,
    Findings,
    verdict,
)
from services.cli.demo.traffic import Traffic
from services.cli.demo.verdict import Line, all_hold, print_verdict, write_json
from tutelage.v1 import training_pb2 as pb

ASKED = ("(a)", "(b)", "(c)", "its calibration", "(d)", "before", "after", "(e)", "time in all")


def driven(mean: float = 500.0, near: float = 0.0, version: int = 1) -> Driven:
    returns = np.full(100, mean)
    return Driven(returns, np.linspace(0.001, 0.002, 1000), near, version)


def findings() -> Findings:
    """What a good demo finds."""
    return Findings(
        before=driven(near=0.01, version=1),
        after=driven(near=0.9, version=2),
        labels=200,
        reward_model=pb.RewardModelFitted(
            held_out_preferences=50,
            accuracy=0.9,
            accuracy_low=0.79,
            accuracy_high=0.96,
            calibration_error=0.08,
            log_loss=0.31,
            accepted=True,
        ),
        trained_version=1,
        tuned_version=2,
        traffic=Traffic(answers=Counter({1: 400, 2: 100}), swaps=1),
        swap_traffic=Traffic(answers=Counter({1: 1000, 2: 1500}), swaps=10),
        seconds={"train": 50.0, "teach 1": 30.4},
    )


def broken(lines: list[Line]) -> list[str]:
    return [line.what for line in lines if line.holds is False]


def test_a_good_demo_holds_in_every_line() -> None:
    lines = verdict(findings(), 200.0)
    assert broken(lines) == []
    assert all_hold(lines)
    asked = [line.what for line in lines if line.holds is not None]
    assert len(asked) == len(ASKED)
    assert all(part in what for part, what in zip(ASKED, asked, strict=True))


def test_figures_are_shown_beside_what_is_asked() -> None:
    lines = {line.what.strip(): (line.measured, line.asked) for line in verdict(findings(), 125)}
    assert lines["(a) DQN's mean return, 100 episodes through Act"] == ("500.0", "≥ 475")
    assert lines["latency of those calls, p50 / p99"] == ("1.50 / 1.99 ms", "")
    assert lines["(b) labels given by the teacher"] == ("200", "≤ 200")
    held_out = lines["(c) reward model's accuracy on 50 held-out pairs"]
    assert held_out == ("90% (79% to 96%)", "its gate")
    assert lines["its calibration error / log loss"] == ("0.080 / 0.310", "its gate")
    assert lines["steps with |x - 1| ≤ 0.3, before"] == ("1%", "< 20%")
    assert lines["steps with |x - 1| ≤ 0.3, after"] == ("90%", "≥ 70%")
    assert lines["(e) failed calls of 5,000, over 11 swaps seen"] == ("0", "0")
    assert lines["time in all"] == ("2:05", "< 5:00")
    assert "train 50 s, teach 1 30 s" in lines


def spoil_before(found: Findings) -> None:
    found.before = driven(mean=SOLVED - 0.01, near=0.01)


def spoil_before_near(found: Findings) -> None:
    found.before = driven(near=NEAR_BEFORE)


def spoil_labels(found: Findings) -> None:
    found.labels = MAX_LABELS + 1


def spoil_gate(found: Findings) -> None:
    assert found.reward_model is not None
    found.reward_model.accepted = False


def spoil_after(found: Findings) -> None:
    found.after = driven(mean=SOLVED - 0.01, near=0.9)


def spoil_after_near(found: Findings) -> None:
    found.after = driven(near=NEAR_AFTER - 0.001)


def spoil_traffic(found: Findings) -> None:
    found.traffic.failures["Unavailable: gone"] += 1


def spoil_swap_traffic(found: Findings) -> None:
    found.swap_traffic.failures["Unavailable: gone"] += 1


def spoil_swaps(found: Findings) -> None:
    found.traffic.swaps = found.swap_traffic.swaps = 0


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (spoil_before, ["(a)"]),
        (spoil_labels, ["(b)"]),
        (spoil_gate, ["(c)", "its calibration"]),
        (spoil_after, ["(d)"]),
        (spoil_before_near, ["before"]),
        (spoil_after_near, ["after"]),
        (spoil_traffic, ["(e)"]),
        (spoil_swap_traffic, ["(e)"]),
        (spoil_swaps, ["(e)"]),
    ],
)
def test_what_does_not_hold_is_marked_and_fails_the_demo(
    spoil: Callable[[Findings], None], parts: list[str]
) -> None:
    found = findings()
    spoil(found)
    lines = verdict(found, 200.0)
    assert not all_hold(lines)
    wrong = broken(lines)
    assert len(wrong) == len(parts)
    assert all(part in what for part, what in zip(parts, wrong, strict=True))


def test_what_is_asked_holds_up_to_its_bound() -> None:
    found = findings()
    found.before = driven(SOLVED, NEAR_BEFORE - 0.001)
    found.after = driven(SOLVED, NEAR_AFTER)
    found.labels = MAX_LABELS
    assert all_hold(verdict(found, MAX_SECONDS - 0.1))


def test_a_demo_that_takes_too_long_does_not_hold() -> None:
    assert broken(verdict(findings(), MAX_SECONDS)) == ["time in all"]


@pytest.mark.parametrize("missing", ["before", "after", "reward_model"])
def test_journeys_that_are_not_through_have_no_verdict(missing: str) -> None:
    with pytest.raises(ValueError, match="not through"):
        verdict(replace(findings(), **{missing: None}), 200.0)


def test_what_is_only_told_never_fails() -> None:
    told, kept, lost = (
        Line("told", "1"),
        Line("kept", "1", "1", True),
        Line("lost", "0", "1", False),
    )
    assert all_hold([told, kept])
    assert not all_hold([told, kept, lost])


def test_the_table_shows_every_line_with_its_mark(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings()
    found.labels = MAX_LABELS + 1
    lines = verdict(found, 200.0)
    print_verdict(lines)
    printed = capsys.readouterr().out
    assert (printed.count("✓"), printed.count("✗")) == (len(ASKED) - 1, 1)
    assert "201" in printed


def test_the_table_is_written_for_programs(tmp_path: Path) -> None:
    lines = verdict(findings(), 200.0)
    path = tmp_path / "build" / "demo.json"
    write_json(lines, path)
    read = json.loads(path.read_text())
    assert [Line(**line) for line in read] == lines
