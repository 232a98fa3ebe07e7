"""What a person sees of it: lines that stay, and on a terminal bars that move below them."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from services.cli.launcher.supervisor import Child
from services.cli.launcher.words import in_turn, progress_text
from tutelage.v1 import training_pb2

PLAIN_PROGRESS_EVERY_S = 5.0
NEAR = 3  # places in the queue whose every change is worth a line
MOST_BARS = 8  # beyond which runs that wait get none
NARROW = 90  # columns, below which there is no room for a bar
GOOD, BAD, NEUTRAL = "✓", "✗", "•"
_COLOURS = {GOOD: "green", BAD: "red", NEUTRAL: "cyan"}


class View(Protocol):
    """Told of everything; a `supervisor.Reporter` among other things."""

    def starting(self, child: Child) -> None:
        """The process has been started."""

    def ready(self, child: Child, after_s: float) -> None:
        """It does its work."""

    def died(self, child: Child, why: str, retry_in_s: float) -> None:
        """It ended by itself and will be started again."""

    def say(self, mark: str, text: str) -> None:
        """A line that stays, with one of the marks in front."""

    def paste(self, text: str) -> None:
        """Text as it is, to be copied."""

    def progress(self, run_id: str, progress: training_pb2.RunProgress) -> None:
        """How far a run is."""

    def waiting(self, run_id: str, place: int) -> None:
        """A run's place in the queue; 0 when its turn has come."""

    def end_run(self, run_id: str) -> None:
        """The run's bar goes."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def ready_text(child: Child, after_s: float) -> str:
    """`trainer      127.0.0.1:50052   (2.1 s)`."""
    return f"{child.name:<10} {child.address}  ({after_s:.1f} s)"


def died_text(child: Child, why: str, retry_in_s: float) -> str:
    """What happened, and what is done about it."""
    return f"{child.name} ended by itself ({why}); starting it again in {retry_in_s:.1f} s"


class PlainView:
    """Lines only, for a pipe or a file; a run's progress every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown_at: dict[str, float] = {}
        self._waiting: set[str] = set()

    def starting(self, child: Child) -> None:
        """The process has been started."""
        self.say(NEUTRAL, f"starting {child.name}")

    def ready(self, child: Child, after_s: float) -> None:
        """It does its work."""
        self.say(GOOD, ready_text(child, after_s))

    def died(self, child: Child, why: str, retry_in_s: float) -> None:
        """It ended by itself and will be started again."""
        self.say(BAD, died_text(child, why, retry_in_s))

    def say(self, mark: str, text: str) -> None:
        """A line that stays, with one of the marks in front."""
        print(f"{mark} {text}", flush=True)

    def paste(self, text: str) -> None:
        """Text as it is, to be copied."""
        print(text, flush=True)

    def progress(self, run_id: str, progress: training_pb2.RunProgress) -> None:
        """How far a run is."""
        now = self._clock()
        if now - self._shown_at.get(run_id, float("-inf")) >= PLAIN_PROGRESS_EVERY_S:
            self._shown_at[run_id] = now
            share = f"{progress.done / progress.total:.0%}" if progress.total else "0%"
            self.say(NEUTRAL, f"{run_id} {share} · {progress_text(progress)}")

    def waiting(self, run_id: str, place: int) -> None:
        """A run's place in the queue; 0 when its turn has come."""
        if place and (place <= NEAR or run_id not in self._waiting):
            self.say(NEUTRAL, f"{run_id} waits, {in_turn(place)}")
        self._waiting.add(run_id)

    def end_run(self, run_id: str) -> None:
        """The run's bar goes."""
        self._shown_at.pop(run_id, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


class TerminalView:
    """Lines above, spinners of what is starting and bars of the runs below them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._starting = Progress(SpinnerColumn(), TextColumn("{task.description}"))
        self._runs = _bars_fit_for(console.width)
        self._spinners: dict[str, TaskID] = {}
        self._bars: dict[str, TaskID] = {}
        self._live = Live(
            Group(self._starting, self._runs),
            console=console,
            refresh_per_second=4,
            transient=True,
        )

    def starting(self, child: Child) -> None:
        """The process has been started."""
        self._drop(self._starting, self._spinners, child.name)
        self._spinners[child.name] = self._starting.add_task(f"starting {child.name}", total=None)

    def ready(self, child: Child, after_s: float) -> None:
        """It does its work."""
        self._drop(self._starting, self._spinners, child.name)
        self.say(GOOD, ready_text(child, after_s))

    def died(self, child: Child, why: str, retry_in_s: float) -> None:
        """It ended by itself and will be started again."""
        self._drop(self._starting, self._spinners, child.name)
        self.say(BAD, died_text(child, why, retry_in_s))

    def say(self, mark: str, text: str) -> None:
        """A line that stays, with one of the marks in front."""
        self._console.print(Text.assemble((mark, _COLOURS[mark]), " ", text), soft_wrap=True)

    def paste(self, text: str) -> None:
        """Text as it is, to be copied: never wrapped, or it could not be pasted."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def progress(self, run_id: str, progress: training_pb2.RunProgress) -> None:
        """How far a run is."""
        self._runs.update(
            self._bar_of(run_id),
            total=progress.total or None,
            completed=progress.done,
            detail=progress_text(progress),
        )

    def waiting(self, run_id: str, place: int) -> None:
        """A run's place in the queue; 0 when its turn has come."""
        if place and run_id not in self._bars and len(self._bars) >= MOST_BARS:
            return
        detail = f"waits, {in_turn(place)}" if place else "starting"
        self._runs.update(self._bar_of(run_id), detail=detail)

    def end_run(self, run_id: str) -> None:
        """The run's bar goes."""
        self._drop(self._runs, self._bars, run_id)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _bar_of(self, run_id: str) -> TaskID:
        if run_id not in self._bars:
            self._bars[run_id] = self._runs.add_task(run_id, detail="")
        return self._bars[run_id]

    @staticmethod
    def _drop(progress: Progress, tasks: dict[str, TaskID], key: str) -> None:
        task = tasks.pop(key, None)
        if task is not None:
            progress.remove_task(task)


def _bars_fit_for(width: int) -> Progress:
    """Run, bar, share and detail in one line; what has no room goes, the detail's end last."""
    narrow = width < NARROW
    run = TextColumn(
        "{task.description}",
        table_column=Column(no_wrap=True, overflow="ellipsis", max_width=width // 4 + 6),
    )
    bar = () if narrow else (BarColumn(bar_width=min(24, width // 10)),)
    share = TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True, min_width=4))
    detail = TextColumn(
        "{task.fields[detail]}",
        table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
    )
    return Progress(run, *bar, share, detail, expand=True)


def view_for_stdout() -> View:
    """Bars on a terminal, plain lines elsewhere."""
    console = Console()
    return TerminalView(console) if console.is_terminal else PlainView()
