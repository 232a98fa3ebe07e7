"""Trains with Stable-Baselines3, as one JSON argument says, and answers with a line of JSON.

    sb3_train.py '{"algorithm": "DQN", "environment": "CartPole-v1", "envs": 1, "seed": 0,
                   "steps": 50000, "settings": {…}, "hidden": [256, 256], "linear": [],
                   "warm_up_steps": 0, "threshold": 475}'

hidden: of its networks; null: as it has them. linear: settings that fall to 0 in a straight line.
warm_up_steps: trained before, by a model that is thrown away. threshold: training ends when the
mean return of the last 20 episodes reaches it; null: never.
Runs in the peer's own environment, so it needs nothing else of this project.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

torch.set_num_threads(1)
WINDOW = 20


class Threshold(BaseCallback):
    """Ends training when the last episodes returned enough; says when that was."""

    def __init__(self, threshold: float | None) -> None:
        super().__init__()
        self._threshold = threshold
        self._started = time.perf_counter()
        self.reached_s: float | None = None

    def _on_step(self) -> bool:
        episodes = self.model.ep_info_buffer
        if self._threshold is None or episodes is None or len(episodes) < WINDOW:
            return True
        if np.mean([episode["r"] for episode in list(episodes)[-WINDOW:]]) < self._threshold:
            return True
        self.reached_s = time.perf_counter() - self._started
        return False


def make(request: dict[str, Any]) -> BaseAlgorithm:
    settings = dict(request["settings"])
    for name in request["linear"]:
        settings[name] = _falling(settings[name])
    if request["hidden"] is not None:
        settings["policy_kwargs"] = {"net_arch": request["hidden"]}
    algorithm = getattr(stable_baselines3, request["algorithm"])
    envs = make_vec_env(request["environment"], request["envs"], seed=request["seed"])
    return algorithm("MlpPolicy", envs, seed=request["seed"], device="cpu", **settings)


def _falling(start: float) -> Any:
    return lambda share_left: start * share_left


def main() -> None:
    request = json.loads(sys.argv[1])
    if request["warm_up_steps"]:
        make(request).learn(request["warm_up_steps"])
    model = make(request)
    threshold, started = Threshold(request["threshold"]), time.perf_counter()
    model.learn(request["steps"], callback=threshold)
    answer = {
        "wall_s": time.perf_counter() - started,
        "env_steps": model.num_timesteps,
        "reached_s": threshold.reached_s,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
