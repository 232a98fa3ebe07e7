"""What a terminal shows of runs: wide, narrow, and none at all."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from services.cli.launcher.view import PlainView, TerminalView
from services.cli.launcher.words import in_turn, progress_text
from tutelage.v1 import training_pb2 as pb

RUN = "cartpole-dqn-lecture-20261122-101500-3f2a"
PROGRESS = pb.RunProgress(
    phase="training",
    done=31_500,
    total=60_000,
    unit="env steps",
    rate=1_840,
    remaining_s=15.5,
    mean_return=312.44,
    episodes=400,
    epsilon=0.0512,
    evaluation_return=480.0,
)


def screen(width: int, *, place: int | None = None) -> str:
    """The last frame of a terminal so many columns wide."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    view = TerminalView(console)
    if place is not None:
        view.waiting(RUN, place)
    else:
        view.progress(RUN, PROGRESS)
    with console.capture() as captured:
        console.print(view._runs)
    return captured.get().rstrip("\n")


def test_all_that_matters_is_in_one_line() -> None:
    assert progress_text(PROGRESS) == (
        "return 312.4 · 1,840 env steps/s · 0:16 left · evaluated 480.0 · ε 0.05"
    )
    assert progress_text(pb.RunProgress()) == "working"
    shown = screen(170)
    assert shown.count("\n") == 0
    for part in (RUN, "━", " 52%", progress_text(PROGRESS)):
        assert part in shown


@pytest.mark.parametrize(
    ("width", "seen"),
    [
        (120, ["━", "52%", "return 312.4", "1,840 env steps/s"]),
        (80, ["52%", "return 312.4 · 1,840 env steps/s · 0:16 left"]),
        (60, ["52%", "return 312.4 · 1,840"]),
        (40, ["52%", "return 312"]),
    ],
)
def test_a_narrow_terminal_shows_one_line_with_what_matters_most(
    width: int, seen: list[str]
) -> None:
    shown = screen(width)
    assert shown.count("\n") == 0
    assert len(shown) <= width
    for part in ["cartpole", *seen]:
        assert part in shown


@pytest.mark.parametrize(
    ("place", "words"), [(1, "next in turn"), (3, "3rd in turn"), (0, "starting")]
)
def test_a_run_that_waits_shows_its_place(place: int, words: str) -> None:
    assert words in screen(120, place=place)


def test_a_long_queue_does_not_fill_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = TerminalView(Console(file=io.StringIO(), force_terminal=True))
    for place in range(1, 100):
        terminal.waiting(f"run-{place}", place)
    assert len(terminal._bars) == 8
    terminal.progress("run-50", PROGRESS)
    assert "run-50" in terminal._bars
    plain = PlainView()
    for place in range(9, 0, -1):
        plain.waiting(RUN, place)
    said = [line.split(", ")[1] for line in capsys.readouterr().out.splitlines()]
    assert said == ["9th in turn", "3rd in turn", "2nd in turn", "next in turn"]


def test_places_are_spoken_of_as_people_do() -> None:
    found = [in_turn(place) for place in (1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111)]
    endings = ["2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th"]
    assert found == ["next in turn", *(f"{ending} in turn" for ending in endings)]


def test_without_a_terminal_there_are_plain_lines_every_few_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    view = PlainView(clock=lambda: now[0])
    view.waiting(RUN, 2)
    view.waiting(RUN, 0)
    for now[0] in (0.0, 1.0, 4.9, 5.0):
        view.progress(RUN, PROGRESS)
    assert capsys.readouterr().out.splitlines() == [
        f"• {RUN} waits, 2nd in turn",
        f"• {RUN} 52% · {progress_text(PROGRESS)}",
        f"• {RUN} 52% · {progress_text(PROGRESS)}",
    ]
