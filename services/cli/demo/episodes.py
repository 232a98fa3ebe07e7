"""Episodes in which every action comes from the served policy, by gRPC Act."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from tutelage import AsyncClient

AT_ONCE = 4
NEAR = 0.3
TARGET_X = 1.0


@dataclass(frozen=True)
class Driven:
    """What came of it.

    returns: (episodes,) undiscounted.
    latencies_s: (calls,) each from request to reply, as the client saw it.
    near: share of all steps with |x - 1| ≤ 0.3.
    version: the version that chose; 0 when it changed on the way.
    """

    returns: npt.NDArray[np.float64]
    latencies_s: npt.NDArray[np.float64]
    near: float
    version: int

    def latency_ms(self, percentile: float) -> float:
        """A percentile of the calls' latencies, in milliseconds."""
        return float(np.percentile(self.latencies_s, percentile)) * 1000


@dataclass
class _Episode:
    total: float
    latencies_s: list[float]
    near: int
    versions: set[int]


async def drive(
    client: AsyncClient,
    environment: str,
    policy: str,
    episodes: int,
    seed: int,
    on_episode: Callable[[], None],
) -> Driven:
    """Play episodes, several at once, one Act a step."""
    seeds = iter(range(seed, seed + episodes))
    played: list[_Episode] = []

    async def play() -> None:
        env = gym.make(environment)
        for number in seeds:
            played.append(await _play(client, env, policy, number))
            on_episode()
        env.close()

    await asyncio.gather(*(play() for _ in range(AT_ONCE)))
    latencies = np.concatenate([episode.latencies_s for episode in played])
    versions = set().union(*(episode.versions for episode in played))
    return Driven(
        returns=np.array([episode.total for episode in played]),
        latencies_s=latencies,
        near=sum(episode.near for episode in played) / len(latencies),
        version=versions.pop() if len(versions) == 1 else 0,
    )


async def _play(
    client: AsyncClient, env: gym.Env[npt.NDArray[np.float32], Any], policy: str, seed: int
) -> _Episode:
    observation, _ = env.reset(seed=seed)
    episode, over = _Episode(0.0, [], 0, set()), False
    while not over:
        started = time.perf_counter()
        decision = await client.act(observation, policy=policy)
        episode.latencies_s.append(time.perf_counter() - started)
        episode.versions.add(decision.version)
        episode.near += bool(abs(observation[0] - TARGET_X) <= NEAR)
        observation, reward, terminated, truncated, _ = env.step(decision.action)
        episode.total += float(reward)
        over = terminated or truncated
    return episode
