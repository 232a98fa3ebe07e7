"""The off-policy loop: collect, append, mirror, learn, evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from services.common.errors import ReplayUnavailable, StorageFull
from services.common.replay import (
    MirrorReplay,
    Relabeler,
    ReplaySchema,
    ReplayStore,
    Sampling,
    patiently,
)
from services.common.spec import PolicySpec
from services.trainer import environments
from services.trainer.checkpoint import Checkpoint, CheckpointStore
from services.trainer.collector import Choice, Collector
from services.trainer.config import DQNRun, RLHFRun
from services.trainer.divergence import check_finite
from services.trainer.evaluate import Greedy
from services.trainer.exploration import EpsilonGreedy
from services.trainer.learning import Learning
from services.trainer.resources import Resources
from services.trainer.runs.session import RunSession
from services.trainer.schedules import epsilons, linear


class Judge(Protocol):
    """Decides what becomes of the policy as it learns; see services.trainer.publishing."""

    def consider(self, network: nn.Module, act: Greedy, env_steps: int) -> bool:
        """Evaluate; True when the run's goal is reached."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


@dataclass(frozen=True)
class Parts:
    """What an off-policy run is put together from."""

    session: RunSession
    resources: Resources
    run_id: str
    attempt: int
    spec: PolicySpec
    learning: Learning
    judge: Judge
    checkpoints: CheckpointStore
    generator: np.random.Generator
    relabel: Relabeler | None = None


class OffPolicyRun:
    """One run of DQN through the Redis replay."""

    def __init__(self, config: DQNRun | RLHFRun, parts: Parts) -> None:
        self._config, self._parts = config, parts
        self._rates = config.dqn if isinstance(config, DQNRun) else config.tuning
        self.env_steps = 0
        self._replay: MirrorReplay = self._patiently(lambda: _open_replay(config, parts))
        self._restore()
        self._patiently(self._replay.sync)
        self._explorer = EpsilonGreedy(
            config.environment.num_envs, self._rates.epsilon.repeat, parts.generator
        )
        self._collector = Collector(
            environments.make(config.environment),
            self._replay.schema,
            seed=environments.seed_from(parts.generator),
            # Ids of an attempt that a crash cut short must not come again.
            first_episode=parts.attempt << 32,
        )

    def run(self) -> bool:
        """Train to the goal, to the end, or until asked to stop; True when it is finished."""
        config, session = self._config, self._parts.session
        total = self._rates.total_env_steps
        evaluation_due = self._next(config.evaluation.period)
        checkpoint_due = self._next(config.checkpoint.period)
        while self.env_steps < total:
            if session.should_stop:
                self.save()
                return False
            self._step()
            session.progress("training", self.env_steps, total, "env steps")
            if self.env_steps >= evaluation_due:
                evaluation_due = self._next(config.evaluation.period)
                if self._evaluate():
                    return True
            if self.env_steps >= checkpoint_due:
                checkpoint_due = self._next(config.checkpoint.period)
                self.save()
        session.progress("training", self.env_steps, total, "env steps", now=True)
        self._evaluate()
        return True

    def save(self) -> None:
        """Make the state durable."""
        parts = self._parts
        state = {
            "updates": parts.learning.learner.updates,
            "learning": parts.learning.state(),
            "episodes": parts.session.episodes,
            "generator": parts.generator.bit_generator.state,
            "judge": parts.judge.state(),
        }
        parts.checkpoints.save(Checkpoint(self.env_steps, parts.learning.learner.tensors(), state))
        parts.session.checkpoint_saved(self.env_steps)

    def _restore(self) -> None:
        parts = self._parts
        checkpoint = parts.checkpoints.load_newest()
        if checkpoint is None:
            return
        state = checkpoint.state
        parts.learning.learner.restore(checkpoint.tensors, state["updates"])
        parts.learning.restore(state["learning"])
        parts.generator.bit_generator.state = state["generator"]
        parts.judge.restore(state["judge"])
        parts.session.episodes = state["episodes"]
        self.env_steps = checkpoint.env_steps
        parts.session.say(f"resumed at {self.env_steps} env steps")

    def _step(self) -> None:
        steps = self._collect()
        rows = self._collector.take()
        self._patiently(lambda: self._replay.append(rows))
        self._patiently(self._replay.sync)
        if self._replay.size < self._config.replay.min_replay_size:
            return
        self._anneal()
        figures = self._parts.learning.take(steps, self._replay)
        if figures:
            check_finite(figures, self._parts.checkpoints.steps())
            figures["epsilon"] = float(self._epsilons().mean())
            figures["replay_size"] = float(self._replay.size)
            self._parts.session.metrics(self.env_steps, figures)

    def _collect(self) -> int:
        """Take steps for a chunk; returns how many."""
        while self._collector.held < self._config.replay.chunk_rows:
            steps, episodes = self._collector.step(self._act)
            self.env_steps += steps
            for episode in episodes:
                self._parts.session.episode(self.env_steps, episode.episode_return, episode.length)
        return self._collector.held

    def _act(self, observations: npt.NDArray[Any]) -> Choice:
        values = self._parts.learning.learner.q_values(observations)
        return self._explorer.choose(values, self._epsilons())

    def _epsilons(self) -> npt.NDArray[np.float64]:
        config = self._config
        return epsilons(self.env_steps, self._rates.epsilon, config.environment.num_envs)

    def _anneal(self) -> None:
        rates = self._rates
        if rates.final_learning_rate is not None:
            share = self.env_steps / rates.total_env_steps
            self._parts.learning.learner.set_learning_rate(
                linear(share, rates.learning_rate, rates.final_learning_rate)
            )

    def _evaluate(self) -> bool:
        learner = self._parts.learning.learner
        return self._parts.judge.consider(learner.network, learner.greedy, self.env_steps)

    def _next(self, period: int) -> int:
        return (self.env_steps // period + 1) * period

    def _patiently(self, operation: Any) -> Any:
        session = self._parts.session
        return patiently(
            operation, on_wait=session.waiting, should_stop=lambda: session.should_stop
        )


def run(config: DQNRun | RLHFRun, parts: Parts) -> bool:
    """Train until finished (True) or asked to stop (False), waiting for a replay that is away.

    Rows that the replay had not acknowledged when the run was stopped are not part of it.
    """
    try:
        loop = OffPolicyRun(config, parts)
    except (ReplayUnavailable, StorageFull):
        if parts.session.should_stop:
            return False
        raise
    try:
        return loop.run()
    except (ReplayUnavailable, StorageFull):
        if not parts.session.should_stop:
            raise
        loop.save()
        return False


def _open_replay(config: DQNRun | RLHFRun, parts: Parts) -> MirrorReplay:
    observation = parts.spec.observation
    schema = ReplaySchema.transitions(observation.shape, observation.dtype)
    name = config.replay.name or parts.run_id
    store = ReplayStore(parts.resources.redis, name, schema, config.replay.capacity)
    if isinstance(config, DQNRun):
        rates = config.dqn
        sampling = Sampling(parts.generator, n_step=rates.n_step, discount=rates.discount)
    else:
        sampling = Sampling(parts.generator, discount=config.tuning.discount, relabel=parts.relabel)
    return MirrorReplay(store, sampling)
