"""What clients of a policy report, put into its replay without a service in between."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np

from services.common.outcomes import Decided, Feeder, Outcome, RowMaker, WaitingDecisions
from services.common.replay.connection import Client
from services.common.spec import PolicySpec

_IDS = itertools.count(1)


class Traffic:
    """A client that acts at random and reports every outcome."""

    def __init__(self, client: Client, policy: str, spec: PolicySpec, environment: str) -> None:
        self._rows, self._env = RowMaker(spec), gym.make(environment)
        size = self._rows.schema.row_bytes
        self._waiting = WaitingDecisions(
            client, policy, wait_s=60, max_bytes=1 << 20, row_bytes=size
        )
        self._feeder = Feeder(client, policy, self._rows.schema, max_bytes=1 << 20, max_rows=10_000)
        self._generator = np.random.default_rng(0)

    def steps(self, count: int) -> None:
        """Act so often, and have all of it in the replay."""
        self._env.action_space.seed(1)
        observation, _ = self._env.reset(seed=1)
        for done in range(1, count + 1):
            observation = self._step(observation)
            if done % 100 == 0 or done == count:
                while self._feeder.move():
                    pass

    def _step(self, observation: Any) -> Any:
        action, identity = self._env.action_space.sample(), f"{next(_IDS):016x}"
        row = self._rows.decided(observation[None], None, action, np.log(0.5), 1)
        reached, reward, terminated, truncated, _ = self._env.step(action)
        after = self._rows.reached(reached[None], None)
        self._waiting.record([Decided(identity, "", row)])
        outcome = Outcome(identity, float(reward), terminated, truncated, after)
        self._waiting.report([outcome])
        return self._env.reset()[0] if terminated or truncated else reached
