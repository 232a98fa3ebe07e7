"""What training is compared on: settings that are the same for both, and each one's own.

Stable-Baselines3's own are RL Zoo's tuned ones; ours are the presets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from train_products import Passes, Products


@dataclass(frozen=True)
class Theirs:
    """How Stable-Baselines3 trains; see train_peers/sb3_train.py."""

    algorithm: str
    settings: dict[str, Any]
    envs: int = 1
    hidden: tuple[int, ...] | None = None
    linear: tuple[str, ...] = ()

    def request(self, environment: str, **more: Any) -> dict[str, Any]:
        """What its script is asked."""
        return {**vars(self), "environment": environment, **more}


@dataclass(frozen=True)
class Alike:
    """How fast steps are taken: our preset with what makes it the same as theirs.

    steps: that are timed.
    warm_up_steps: before that, in the same process.
    products: the matrix products of an update, the least that it can take.
    """

    overrides: dict[str, Any]
    steps: int
    warm_up_steps: int
    env_steps_per_update: float
    products: Products


@dataclass(frozen=True)
class Task:
    """An environment and an algorithm.

    threshold: for the mean return of the last 20 training episodes; None: only speed is compared.
    steps: of theirs at the most, in which to reach it.
    overrides: of our preset, for the threshold.
    """

    name: str
    environment: str
    preset: str
    theirs: Theirs
    threshold: float | None = None
    steps: int = 0
    alike: Alike | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


_DQN_CARTPOLE = Theirs(
    "DQN",
    {
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
    },
    hidden=(256, 256),
)
_DQN_LONG = Theirs(  # Acrobot and LunarLander share it
    "DQN",
    {
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "gamma": 0.99,
        "target_update_interval": 250,
        "train_freq": 4,
        "gradient_steps": -1,
        "exploration_fraction": 0.12,
        "exploration_final_eps": 0.1,
    },
    hidden=(256, 256),
)
_PPO_CARTPOLE = Theirs(
    "PPO",
    {
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
    },
    envs=8,
    linear=("learning_rate", "clip_range"),
)
TASKS = (
    Task(
        "dqn-cartpole",
        "CartPole-v1",
        "cartpole-dqn",
        _DQN_CARTPOLE,
        threshold=475,
        steps=50_000,
        # The preset ends once the greedy policy is good, and explores too much until then for
        # training episodes to show it.
        overrides={
            "evaluation.goal_return": None,
            "dqn.epsilon": {"start": 1.0, "end": 0.004, "decay": 1500, "spread": 5, "repeat": 4},
        },
        alike=Alike(
            {
                "environment.num_envs": 1,
                "network": {"hidden": [256, 256]},
                "replay": {"capacity": 100_000, "min_replay_size": 1000, "chunk_rows": 256},
                "dqn.batch_size": 64,
                "dqn.bootstrap": "q-learning",
                "dqn.n_step": 1,
                "dqn.learning_rate": 2.3e-3,
                "dqn.final_learning_rate": None,
                "dqn.env_steps_per_update": 2,
                "dqn.epsilon": {"start": 1.0, "end": 0.04, "decay": 3000},
                "dqn.target_update_period": 128,  # theirs copies at each step of the 256 between
            },
            steps=12_000,
            warm_up_steps=2_000,
            env_steps_per_update=2,
            products=((64, (4, 256, 256, 2), Passes(forward=2, backward=1)),),
        ),
    ),
    Task(
        "ppo-cartpole",
        "CartPole-v1",
        "cartpole-ppo",
        _PPO_CARTPOLE,
        alike=Alike(
            {
                "environment.num_envs": 8,
                "network": {"hidden": [64, 64], "activation": "tanh"},
                "ppo.rollout_steps": 32,
                "ppo.epochs": 20,
                "ppo.minibatch_size": 256,
            },
            steps=30_000,
            warm_up_steps=1_024,
            env_steps_per_update=256 / 20,
            products=(
                (256, (4, 64, 64, 2), Passes(forward=1, backward=1)),
                (256, (4, 64, 64, 1), Passes(forward=1, backward=1)),
            ),
        ),
    ),
    Task(
        "sac-pendulum",
        "Pendulum-v1",
        "pendulum-sac",
        Theirs("SAC", {"learning_rate": 1e-3}),
        threshold=-200,
        steps=20_000,
        alike=Alike(
            {
                "environment.num_envs": 1,
                "network": {"hidden": [256, 256]},
                "replay": {"capacity": 100_000, "min_replay_size": 100, "chunk_rows": 1},
                "sac.batch_size": 256,
                "sac.env_steps_per_update": 1,
                "sac.learning_rate": 1e-3,
            },
            steps=1_500,
            warm_up_steps=200,
            env_steps_per_update=1,
            products=(
                (256, (3, 256, 256, 2), Passes(forward=2, backward=1)),  # actor
                (256, (4, 256, 256, 1), Passes(forward=2)),  # slow critics
                (256, (4, 256, 256, 1), Passes(forward=2, backward=2)),  # critics
                (256, (4, 256, 256, 1), Passes(forward=2, to_inputs=2)),  # judging the actor
            ),
        ),
    ),
    Task("dqn-acrobot", "Acrobot-v1", "acrobot-dqn", _DQN_LONG, threshold=-100, steps=100_000),
    Task(
        "dqn-lunarlander",
        "LunarLander-v3",
        "lunarlander-dqn",
        _DQN_LONG,
        threshold=200,
        steps=100_000,
    ),
)
