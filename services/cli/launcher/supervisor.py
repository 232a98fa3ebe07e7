"""Keeps child processes alive: starts them, restarts those that die, stops all of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from services.cli.launcher.child_log import last_lines, open_log
from services.common.errors import Unavailable
from services.common.leash import leashed

KILL_WAIT_S = 5.0


@dataclass(frozen=True)
class Child:
    """A process to keep alive.

    name: what people call it, and its log file.
    command: program and arguments.
    ready: awaited again and again until it says that the process does its work.
    address: where it answers, for people.
    environment: its whole environment. Default: this process's own.
    foundation: whether the children after it start only once it is ready, and it stops last.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], Awaitable[bool]]
    address: str
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    foundation: bool = False


class Reporter(Protocol):
    """Is told what happens to the children."""

    def starting(self, child: Child) -> None:
        """The process has been started."""

    def ready(self, child: Child, after_s: float) -> None:
        """It does its work."""

    def died(self, child: Child, why: str, retry_in_s: float) -> None:
        """It ended by itself and will be started again."""


@dataclass(frozen=True)
class RestartPolicy:
    """When to start a dead child again, and when to give up.

    quick_death_s: a life shorter than this is a quick death.
    quick_deaths: after this many of them in a row it is given up.
    first_delay_s, longest_delay_s: the wait doubles from the one to the other.
    poll_s: how often readiness is asked for.
    """

    quick_death_s: float = 15.0
    quick_deaths: int = 5
    first_delay_s: float = 0.5
    longest_delay_s: float = 8.0
    poll_s: float = 0.25

    def delay_s(self, deaths: int) -> float:
        """Wait before the start that follows `deaths` quick deaths in a row."""
        return min(self.first_delay_s * 2.0 ** max(deaths - 1, 0), self.longest_delay_s)


class Supervisor:
    """Owns the children. `run` until cancelled, then `stop`.

    Must live on the main thread: the children die with the thread that started them (see
    `services.common.leash`), which is how a killed launcher leaves no orphan.
    """

    def __init__(
        self,
        children: Sequence[Child],
        log_folder: Path,
        reporter: Reporter,
        policy: RestartPolicy = RestartPolicy(),
    ) -> None:
        self._children = children
        self._log_folder = log_folder
        self._reporter = reporter
        self._policy = policy
        self._processes: dict[str, Process] = {}
        self._ready = {child.name: asyncio.Event() for child in children}
        self._stopping = False

    async def run(self) -> None:
        """Start the children in order and keep them alive; returns only by an error.

        Raises:
            Unavailable: when a child died at once too often; with its last log lines.
        """
        keepers: list[asyncio.Task[None]] = []
        try:
            for child in self._children:
                keepers.append(asyncio.create_task(self._keep(child)))
                if child.foundation:
                    await self._first_of(keepers, self._ready[child.name])
            await asyncio.gather(*keepers)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def all_ready(self) -> None:
        """Return once every child has been ready at least once."""
        for event in self._ready.values():
            await event.wait()

    def pids(self) -> dict[str, int]:
        """Process ids of the children that live, by name."""
        alive = self._processes.items()
        return {name: process.pid for name, process in alive if process.returncode is None}

    async def stop(self, grace_s: float) -> None:
        """End all children, last started first: SIGTERM, `grace_s` to comply, then SIGKILL."""
        self._stopping = True
        backwards = [child for child in reversed(self._children) if child.name in self._processes]
        for foundation in (False, True):
            chosen = [c.name for c in backwards if c.foundation is foundation]
            await _end([self._processes[name] for name in chosen], grace_s)

    def kill(self) -> None:
        """End all children at once, as a second Ctrl-C asks for."""
        self._stopping = True
        for process in self._processes.values():
            _kill_group(process)

    async def _keep(self, child: Child) -> None:
        clock = asyncio.get_running_loop().time
        deaths = 0
        while not self._stopping:
            started = clock()
            process = await self._start(child)
            announcing = asyncio.create_task(self._announce(child, started))
            try:
                code = await process.wait()
            finally:
                announcing.cancel()
            deaths = deaths + 1 if clock() - started < self._policy.quick_death_s else 1
            await self._bury(child, process, describe_exit(code), deaths)

    async def _start(self, child: Child) -> Process:
        self._reporter.starting(child)
        with open_log(self._log_folder, child.name) as log:
            process = await _spawn(child, log)
        self._processes[child.name] = process
        return process

    async def _announce(self, child: Child, started: float) -> None:
        while not await child.ready():  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(self._policy.poll_s)
        self._ready[child.name].set()
        self._reporter.ready(child, asyncio.get_running_loop().time() - started)

    async def _bury(self, child: Child, process: Process, why: str, deaths: int) -> None:
        _kill_group(process)  # what it started must not outlive it
        if self._stopping:
            return
        if deaths >= self._policy.quick_deaths:
            raise Unavailable(self._obituary(child, why, deaths))
        delay_s = self._policy.delay_s(deaths)
        self._reporter.died(child, why, delay_s)
        await asyncio.sleep(delay_s)

    def _obituary(self, child: Child, why: str, deaths: int) -> str:
        path = self._log_folder / f"{child.name}.log"
        lines = "".join(f"\n    {line}" for line in last_lines(path))
        return f"{child.name} ended {deaths} times in a row ({why}). {path} ends with:{lines}"

    async def _first_of(self, keepers: Sequence[asyncio.Task[None]], ready: asyncio.Event) -> None:
        """Wait for the event, or raise what a keeper raises before."""
        waiting = asyncio.create_task(ready.wait())
        try:
            done, _ = await asyncio.wait([waiting, *keepers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        for task in done:
            task.result()


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


async def _spawn(child: Child, log: IO[bytes]) -> Process:
    return await asyncio.create_subprocess_exec(
        *leashed(child.command),
        stdin=DEVNULL,
        stdout=log,
        stderr=log,
        env=dict(child.environment),
        start_new_session=True,  # Ctrl-C reaches the launcher only, which stops them in order
    )


async def _end(processes: Sequence[Process], grace_s: float) -> None:
    waits = [asyncio.create_task(process.wait()) for process in processes]
    for process in processes:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
    if waits:
        await asyncio.wait(waits, timeout=grace_s)
    for process in processes:
        _kill_group(process)
    if waits:
        await asyncio.wait(waits, timeout=KILL_WAIT_S)


def _kill_group(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
