"""The supervisor over small real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from services.cli.launcher.child_log import last_lines, open_log
from services.cli.launcher.supervisor import Child, RestartPolicy, Supervisor, describe_exit
from services.common.errors import Unavailable

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(600)"
)
PARENT = (
    "import subprocess, sys, time; "
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print('child', p.pid, flush=True); time.sleep(600)"
)
BROKEN = "import sys; print('cannot find the flux capacitor'); sys.exit(3)"
PATIENT = RestartPolicy(first_delay_s=0.01, longest_delay_s=0.02, poll_s=0.01, quick_deaths=3)


@dataclass
class Events:
    """Remembers what it was told."""

    lines: list[str] = field(default_factory=list)

    def starting(self, child: Child) -> None:
        self.lines.append(f"starting {child.name}")

    def ready(self, child: Child, after_s: float) -> None:
        self.lines.append(f"ready {child.name}")

    def died(self, child: Child, why: str, retry_in_s: float) -> None:
        self.lines.append(f"died {child.name}: {why}")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - it is about another process
            await asyncio.sleep(0.01)


def said(log: Path, text: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return any(text in line for line in last_lines(log))

    return ready


def child(folder: Path, name: str, code: str, *, foundation: bool = False) -> Child:
    ready = said(folder / f"{name}.log", "up")
    command = (sys.executable, "-c", code)
    return Child(name, command, ready, "here", foundation=foundation)


@asynccontextmanager
async def running(
    folder: Path, events: Events, *children: Child, grace_s: float = 30.0
) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(children, folder, events, PATIENT)
    work = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await supervisor.stop(grace_s)


async def test_a_killed_child_is_started_again_and_that_is_said(tmp_path: Path) -> None:
    events = Events()
    async with running(tmp_path, events, child(tmp_path, "a", SLEEPER)) as supervisor:
        await supervisor.all_ready()
        first = supervisor.pids()["a"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.pids().get("a", first) != first)
        second = supervisor.pids()["a"]
    assert "died a: killed by SIGKILL" in events.lines
    assert not psutil.pid_exists(first)
    assert not psutil.pid_exists(second)


async def test_others_start_only_when_the_foundation_is_ready_and_stop_before_it(
    tmp_path: Path,
) -> None:
    events = Events()
    base = child(tmp_path, "base", SLEEPER, foundation=True)
    async with running(tmp_path, events, base, child(tmp_path, "a", SLEEPER)) as supervisor:
        await supervisor.all_ready()
    assert events.lines == ["starting base", "ready base", "starting a", "ready a"]


async def test_what_keeps_dying_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    events = Events()
    supervisor = Supervisor([child(tmp_path, "a", BROKEN)], tmp_path, events, PATIENT)
    with pytest.raises(Unavailable) as caught:
        await supervisor.run()
    await supervisor.stop(1)
    assert "a ended 3 times in a row (exit code 3)" in str(caught.value)
    assert "cannot find the flux capacitor" in str(caught.value)
    assert events.lines.count("starting a") == 3


async def test_a_foundation_that_keeps_dying_is_given_up_too(tmp_path: Path) -> None:
    base = child(tmp_path, "base", BROKEN, foundation=True)
    other = child(tmp_path, "a", SLEEPER)
    events = Events()
    supervisor = Supervisor([base, other], tmp_path, events, PATIENT)
    with pytest.raises(Unavailable, match="base ended 3 times"):
        await supervisor.run()
    await supervisor.stop(1)
    assert "starting a" not in events.lines


async def test_what_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    stubborn = child(tmp_path, "a", STUBBORN)
    async with running(tmp_path, Events(), stubborn, grace_s=0.1) as supervisor:
        await supervisor.all_ready()
        pid = supervisor.pids()["a"]
    assert not psutil.pid_exists(pid)


async def test_what_a_child_started_does_not_outlive_it(tmp_path: Path) -> None:
    parent = Child("a", (sys.executable, "-c", PARENT), said(tmp_path / "a.log", "child"), "here")
    async with running(tmp_path, Events(), parent) as supervisor:
        await supervisor.all_ready()
        grandchild = psutil.Process(int((tmp_path / "a.log").read_text().split()[1]))
    await until(lambda: not _alive(grandchild))


def _alive(process: psutil.Process) -> bool:
    """Whether it runs; one that waits to be reaped by init does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_output_goes_to_a_log_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path, Events(), child(tmp_path, "a", SLEEPER)) as supervisor:
        await supervisor.all_ready()
    assert (tmp_path / "a.log").read_text() == "up\n"


def test_a_log_that_has_grown_too_long_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.cli.launcher.child_log.LIMIT_BYTES", 4)
    for text in (b"first\n", b"second\n"):
        with open_log(tmp_path, "a") as log:
            log.write(text)
    assert (tmp_path / "a.log.1").read_bytes() == b"first\n"
    assert (tmp_path / "a.log").read_bytes() == b"second\n"


def test_last_lines_skips_blanks_and_survives_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("one\n\ntwo\n  \nthree\n")
    assert last_lines(tmp_path / "a.log", 2) == ["two", "three"]
    assert last_lines(tmp_path / "b.log") == []


@pytest.mark.parametrize(
    ("code", "words"), [(1, "exit code 1"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")]
)
def test_an_exit_is_put_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_the_wait_doubles_up_to_its_bound() -> None:
    policy = RestartPolicy(first_delay_s=1, longest_delay_s=5)
    assert [policy.delay_s(deaths) for deaths in (1, 2, 3, 4)] == [1, 2, 4, 5]
