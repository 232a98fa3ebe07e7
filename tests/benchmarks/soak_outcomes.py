"""Callers who report what came of each decision, while the Redis that keeps them is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from services.common.embedded_redis import EmbeddedRedis
from tutelage import AsyncClient, AsyncSession
from tutelage.errors import NotFound, TutelageError, Unavailable

PERIOD_S = 0.05
EPISODE = 50  # steps
AWAY_S = 3.0
# What may be said of an outcome whose decision, or whose Redis, went away.
EXCUSED = (Unavailable, NotFound)


class MortalRedis:
    """A server that is killed now and then, and comes back with its data."""

    def __init__(self, folder: Path, thread: ThreadPoolExecutor) -> None:
        self._server, self._thread = EmbeddedRedis(folder), thread
        self.url, self.deaths = self._server.url, 0
        thread.submit(self._server.start).result()

    async def die_every(self, period_s: float) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(period_s)
            await loop.run_in_executor(self._thread, self._server.kill)
            await asyncio.sleep(AWAY_S)
            await loop.run_in_executor(self._thread, self._server.start)
            self.deaths += 1

    def stop(self) -> None:
        """End it."""
        self._thread.submit(self._server.stop).result()


@contextmanager
def mortal_redis(folder: Path) -> Iterator[MortalRedis]:
    """A server that dies with this block; it dies with the thread that started it, too."""
    with ThreadPoolExecutor(1) as thread:
        redis = MortalRedis(folder, thread)
        try:
            yield redis
        finally:
            redis.stop()


async def act_and_report(address: str, said: Counter[str]) -> None:
    """Episodes of one session, until cancelled; counts what became of its outcomes."""
    async with AsyncClient(address) as client:
        session, step = AsyncSession(client), 0
        while True:
            step += 1
            ended = step % EPISODE == 0
            try:
                await session.act([0.0, 0.0, 0.01 * (step % EPISODE), 0.0], epsilon=0.1)
                counts = await session.report([0.0, 0.0, 0.0, 0.0], 1.0, terminated=ended)
                said["counted" if counts else "not tracked"] += 1
            except EXCUSED as error:
                said[type(error).__name__] += 1
            except TutelageError as error:
                said[f"failed: {type(error).__name__}: {error}"] += 1
            await asyncio.sleep(PERIOD_S)
