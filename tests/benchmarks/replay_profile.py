"""Where the time of the replay's figures goes: in Python, and in the server."""

from __future__ import annotations

import cProfile
import pstats
from pathlib import Path
from typing import Any

import redis
from replay_ours import Ours
from replay_training import Training

LINES = 12


def show_profiles(url: str, folder: Path) -> None:
    """Print, for each figure, the functions that took most and the commands the server ran."""
    ours = Ours(url)
    training = Training(url, folder)
    measures: dict[str, Any] = {**ours.measures, "training": training.through_redis}
    with redis.Redis.from_url(url) as client:
        for name, take in measures.items():
            take()  # warm
            client.config_resetstat()
            profile = cProfile.Profile()
            profile.runcall(take)
            print(f"\n== {name}")
            pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(LINES)
            _show_server(client)
    ours.close()


def _show_server(client: redis.Redis) -> None:
    """The time the server spent in scripts, and in the commands within them."""
    statistics: Any = client.info("commandstats")
    for name, command in sorted(statistics.items(), key=lambda item: -item[1]["usec"])[:5]:
        calls, each = command["calls"], command["usec_per_call"]
        print(f"   server: {name.removeprefix('cmdstat_'):<20} {calls:>8} calls {each:>9} µs each")
