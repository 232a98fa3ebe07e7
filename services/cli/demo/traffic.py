"""Calls that keep flowing while versions come and go, and are all counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tutelage import AsyncClient
from tutelage.errors import TutelageError

OBSERVATION = (0.0, 0.0, 0.0, 0.0)


@dataclass
class Traffic:
    """Answers by version, failures by message, and how often the version changed."""

    answers: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    swaps: int = 0
    last_version: int = 0

    @property
    def calls(self) -> int:
        """All of them."""
        return self.answers.total() + self.failures.total()


@asynccontextmanager
async def flowing(
    client: AsyncClient, policy: str, traffic: Traffic, *, period_s: float, callers: int = 1
) -> AsyncIterator[None]:
    """Call Act again and again, from several callers at once, for as long as the block lasts."""
    tasks = [asyncio.create_task(_call(client, policy, traffic, period_s)) for _ in range(callers)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _call(client: AsyncClient, policy: str, traffic: Traffic, period_s: float) -> None:
    while True:
        try:
            decision = await client.act(OBSERVATION, policy=policy)
        except TutelageError as error:
            traffic.failures[f"{type(error).__name__}: {error}"] += 1
        else:
            traffic.answers[decision.version] += 1
            traffic.swaps += decision.version != traffic.last_version and traffic.last_version > 0
            traffic.last_version = decision.version
        await asyncio.sleep(period_s)
