"""Counts the episodes of vectorised environments as they go by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from services.trainer.arrays import Arrays
from services.trainer.runs.session import RunSession

Bools = npt.NDArray[np.bool_]


class EpisodeCounter:
    """Adds up the returns and lengths of N environments, and tells the session of each end."""

    def __init__(self, num_envs: int, session: RunSession) -> None:
        self._session = session
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)

    def add(self, env_steps: int, live: Bools, rewards: npt.NDArray[Any], over: Bools) -> None:
        """A step of each environment.

        Args:
            env_steps: of the run, this step's included.
            live: (N,) false where an environment was being reset.
            rewards: (N,)
            over: (N,) where the episode ended.
        """
        self._returns += np.where(live, rewards, 0)
        self._lengths += live
        for i in np.flatnonzero(live & over):
            self._session.episode(env_steps, float(self._returns[i]), int(self._lengths[i]))
            self._returns[i] = self._lengths[i] = 0

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Episodes under way, for `put_back`."""
        return {"returns": self._returns, "lengths": self._lengths}

    def put_back(self, arrays: Arrays) -> None:
        """Go on with what `arrays` gave."""
        self._returns, self._lengths = arrays["returns"].copy(), arrays["lengths"].copy()
