"""What the history of a run says, so that it is not said twice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Told:
    """What a run's history says so far.

    episodes, evaluations: how many.
    env_steps: up to which learner figures are told.
    versions: published.
    """

    episodes: int = 0
    evaluations: int = 0
    env_steps: int = -1
    versions: frozenset[int] = frozenset()


NOTHING_TOLD = Told()
