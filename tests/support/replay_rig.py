"""Rows of a small replay, made by hand, for tests of what stores and samples them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.common.replay import ReplaySchema
from services.common.replay.schema import Rows

SCHEMA = ReplaySchema.transitions((1,), "float32")


def make_rows(
    episode: int,
    steps: Sequence[int],
    *,
    terminated: int | None = None,
    truncated: int | None = None,
) -> Rows:
    """Steps of one episode.

    In step t of episode e, observation 100·e + t is followed by 100·e + t + 1, the reward is
    t + 1, and the action t mod 2. The steps `terminated` and `truncated` are such.
    """
    rows = SCHEMA.empty(len(steps))
    rows["step"] = steps
    rows["episode_id"] = episode
    rows["observation"][:, 0] = 100 * episode + np.array(steps)
    rows["next_observation"] = rows["observation"] + 1
    rows["reward"] = np.array(steps) + 1
    rows["action"] = np.array(steps) % 2
    rows["terminated"] = [step == terminated for step in steps]
    rows["truncated"] = [step == truncated for step in steps]
    return rows


def interleave(*episodes: Rows) -> Rows:
    """The first row of each, then the second of each, and so on, as vectorised environments do."""
    longest = max(map(len, episodes))
    turns = [rows[i : i + 1] for i in range(longest) for rows in episodes]
    return np.concatenate(turns)
