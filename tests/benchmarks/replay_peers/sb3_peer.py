"""Stable-Baselines3's replay buffer, in memory; it takes one row at a time."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from rounds import serve_rounds
from stable_baselines3.common.buffers import ReplayBuffer

torch.set_num_threads(1)


def main() -> None:
    observations, actions = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)
    buffer = ReplayBuffer(100_000, observations, actions, device="cpu")
    observation, one, info = np.zeros(4), np.zeros(1), [{}]

    def insert() -> None:
        buffer.add(observation, observation, one, one, one, info)

    while not buffer.full:
        insert()
    serve_rounds(insert, 1, 20_000, lambda: buffer.sample(256), 500)


if __name__ == "__main__":
    main()
