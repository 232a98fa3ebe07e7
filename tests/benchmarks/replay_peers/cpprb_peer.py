"""cpprb's prioritised replay, in memory: a sample is followed by an update of its priorities."""

from __future__ import annotations

import numpy as np
from cpprb import PrioritizedReplayBuffer
from rounds import serve_rounds

CHUNK = 1024


def main() -> None:
    columns = {"obs": {"shape": 4}, "act": {}, "rew": {}, "next_obs": {"shape": 4}, "done": {}}
    buffer = PrioritizedReplayBuffer(100_000, columns)
    states, numbers = np.zeros((CHUNK, 4)), np.zeros(CHUNK)
    chunk = {"obs": states, "act": numbers, "rew": numbers, "next_obs": states, "done": numbers}
    priorities = np.random.default_rng(0).random(256).astype(np.float32)

    def sample() -> None:
        batch = buffer.sample(256)
        buffer.update_priorities(batch["indexes"], priorities)

    for _ in range(100):
        buffer.add(**chunk)
    serve_rounds(lambda: buffer.add(**chunk), CHUNK, 50, sample, 300)


if __name__ == "__main__":
    main()
