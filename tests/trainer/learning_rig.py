"""The real training loops on probe environments, without evaluation and publishing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from services.trainer import environments
from services.trainer.actor_critic import ActorCritic
from services.trainer.algorithms.a2c import A2CLearner
from services.trainer.algorithms.actor_critic import ActorCriticLearner
from services.trainer.algorithms.dqn import DQNLearner
from services.trainer.algorithms.ppo import PPOLearner
from services.trainer.algorithms.pqn import PQNLearner
from services.trainer.algorithms.qr_dqn import QuantileLearner
from services.trainer.checkpoint import CheckpointStore
from services.trainer.config import A2CRun, DQNRun, PPORun, PQNRun, parse
from services.trainer.heads import policy_gradient_distribution
from services.trainer.learning import DrawnBatches
from services.trainer.networks import QNetwork
from services.trainer.resources import Resources
from services.trainer.runs import off_policy
from services.trainer.runs.execute import values_spec
from services.trainer.runs.history import HistoryWriter
from services.trainer.runs.loop import LoopParts
from services.trainer.runs.on_policy import OnPolicyRun
from services.trainer.runs.parallel_q import ParallelQRun
from services.trainer.runs.session import RunSession

CPU = torch.device("cpu")
NEVER = 10**9
COMMON: dict[str, Any] = {
    "policy": "probe",
    "network": {"hidden": [32]},
    "evaluation": {"period": NEVER},
    "checkpoint": {"period": NEVER},
}
DQN: dict[str, Any] = {
    "total_env_steps": 480,
    "learning_rate": 0.02,
    "final_learning_rate": 0.001,
    "batch_size": 32,
    "discount": 0.5,
    "target_update_period": 5,
    "env_steps_per_update": 2,
    "epsilon": {"start": 1.0, "end": 1.0},
}
PQN: dict[str, Any] = {
    "total_env_steps": 1536,
    "learning_rate": 0.02,
    "final_learning_rate": 0.001,
    "rollout_steps": 16,
    "minibatch_size": 32,
    "epochs": 8,
    "discount": 0.5,
    "epsilon": {"start": 1.0, "end": 1.0},
}
PPO: dict[str, Any] = {
    "total_env_steps": 2400,
    "learning_rate": 0.01,
    "rollout_steps": 16,
    "epochs": 8,
    "anneal_learning_rate": False,
    "max_gradient_norm": 10.0,
    "minibatch_size": 32,
    "discount": 0.5,
}
A2C: dict[str, Any] = {
    "total_env_steps": 12000,
    "learning_rate": 0.01,
    "rollout_steps": 8,
    "anneal_learning_rate": False,
    "max_gradient_norm": 10.0,
    "discount": 0.5,
    "gae_lambda": 0.8,
}


class Indifferent:
    """A judge who never has enough."""

    def consider(self, network: nn.Module, act: object, env_steps: int) -> bool:
        return False

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


def dqn_config(environment: str, network: Any = None, **changes: Any) -> DQNRun:
    content = {
        **COMMON,
        "algorithm": "dqn",
        "environment": {"id": environment, "num_envs": 8},
        "network": {"hidden": [32], **(network or {})},
        "replay": {"capacity": 1000, "min_replay_size": 32, "chunk_rows": 16},
        "dqn": DQN | changes,
    }
    config = parse(content, "test")
    assert isinstance(config, DQNRun)
    return config


def ppo_config(environment: str, **changes: Any) -> PPORun:
    content = {
        **COMMON,
        "algorithm": "ppo",
        "environment": {"id": environment, "num_envs": 4},
        "ppo": PPO | changes,
    }
    config = parse(content, "test")
    assert isinstance(config, PPORun)
    return config


def a2c_config(environment: str, **changes: Any) -> A2CRun:
    content = {
        **COMMON,
        "algorithm": "a2c",
        "environment": {"id": environment, "num_envs": 8},
        "a2c": A2C | changes,
    }
    config = parse(content, "test")
    assert isinstance(config, A2CRun)
    return config


def make_dqn(config: DQNRun, generator: np.random.Generator | None = None) -> DQNLearner:
    torch.manual_seed(0)
    spec = values_spec(config.environment)
    kind = QuantileLearner if config.network.quantiles else DQNLearner
    generator = generator or np.random.default_rng(0)
    return kind(QNetwork(spec, config.network), config.dqn, CPU, generator)


def pqn_config(environment: str, **changes: Any) -> PQNRun:
    content = {
        **COMMON,
        "algorithm": "pqn",
        "environment": {"id": environment, "num_envs": 8},
        "network": {"hidden": [32], "layer_norm": True},
        "pqn": PQN | changes,
    }
    config = parse(content, "test")
    assert isinstance(config, PQNRun)
    return config


def make_pqn(config: PQNRun) -> PQNLearner:
    torch.manual_seed(0)
    spec = values_spec(config.environment)
    return PQNLearner(QNetwork(spec, config.network), config.pqn, CPU)


def make_on_policy(config: PPORun | A2CRun) -> ActorCriticLearner:
    torch.manual_seed(0)
    kind = policy_gradient_distribution(environments.action_space_of(config.environment))
    spec = environments.spec_of(config.environment, kind)
    network = ActorCritic(spec, config.network, config.rates.initial_log_std)
    if isinstance(config, PPORun):
        return PPOLearner(network, config.ppo, CPU)
    return A2CLearner(network, config.a2c, CPU)


@contextmanager
def session_in(folder: Path) -> Iterator[RunSession]:
    history = HistoryWriter(folder / "history.jsonl")
    yield RunSession(history)
    history.close()


def learn_dqn(config: DQNRun, resources: Resources, folder: Path) -> DQNLearner:
    """Train to the end."""
    generator = np.random.default_rng(0)
    learner = make_dqn(config, generator)
    with session_in(folder) as session:
        parts = off_policy.Parts(
            session=session,
            resources=resources,
            run_id=f"probe-{folder.name}",
            attempt=1,
            spec=learner.network.spec,
            learning=DrawnBatches(learner, config.dqn),
            judge=Indifferent(),
            checkpoints=CheckpointStore(folder / "checkpoints"),
            generator=generator,
        )
        assert off_policy.run(config, parts)
    return learner


def learn_pqn(config: PQNRun, folder: Path) -> PQNLearner:
    """Train to the end."""
    learner = make_pqn(config)
    with session_in(folder) as session:
        parts = LoopParts(
            session=session,
            judge=Indifferent(),
            checkpoints=CheckpointStore(folder / "checkpoints"),
            generator=np.random.default_rng(0),
        )
        assert ParallelQRun(config, learner, parts).run()
    return learner


def learn_on_policy(config: PPORun | A2CRun, folder: Path) -> ActorCriticLearner:
    """Train to the end."""
    learner = make_on_policy(config)
    with session_in(folder) as session:
        parts = LoopParts(
            session=session,
            judge=Indifferent(),
            checkpoints=CheckpointStore(folder / "checkpoints"),
            generator=np.random.default_rng(0),
        )
        assert OnPolicyRun(config, config.rates, learner, parts).run()
    return learner
