"""The off-policy loop: collect, append, mirror, learn, evaluate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.errors import ReplayUnavailable, StorageFull
from services.common.replay import (
    MirrorReplay,
    Prioritized,
    ReplayStore,
    Sampling,
    Uniform,
    patiently,
)
from services.common.spec import PolicySpec
from services.trainer import environments
from services.trainer.checkpoint import CheckpointStore
from services.trainer.collector import Choice, Collector
from services.trainer.config import DQNRun, PriorityConfig
from services.trainer.divergence import check_finite
from services.trainer.exploration import EpsilonGreedy
from services.trainer.learning import Learning, Moment
from services.trainer.resources import Resources
from services.trainer.runs.frames import check_stacks, replay_schema
from services.trainer.runs.loop import Judge, LoopParts, TrainingLoop
from services.trainer.runs.session import RunSession
from services.trainer.schedules import epsilons, linear


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


class OffPolicyRun(TrainingLoop):
    """One run of DQN through the Redis replay."""

    def __init__(self, config: DQNRun, parts: Parts) -> None:
        self._config, self._parts = config, parts
        self._rates = config.dqn
        self._replay: MirrorReplay = self._patiently(lambda: _open_replay(config, parts))
        loop = LoopParts(parts.session, parts.judge, parts.checkpoints, parts.generator)
        super().__init__(config, self._rates.total_env_steps, loop, parts.learning.learner)
        self._patiently(self._replay.sync)
        self._explorer = EpsilonGreedy(
            config.environment.num_envs, self._rates.epsilon.repeat, parts.generator
        )
        self._collector = Collector(
            environments.make(config.environment),
            self._replay.schema,
            seed=environments.seed_from(parts.generator),
            first_episode=_first_episode(parts),
        )
        check_stacks(self._collector.observations, config.replay.frame_stack)

    def state(self) -> dict[str, Any]:
        """See TrainingLoop."""
        return {"learning": self._parts.learning.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See TrainingLoop."""
        self._parts.learning.restore(state["learning"])

    def save(self) -> None:
        """See TrainingLoop; the replay's priorities become durable too, if it answers."""
        with suppress(ReplayUnavailable, StorageFull):
            self._replay.checkpoint()
        super().save()

    def close(self) -> None:
        """Return once the replay has all rows and counts of this run."""
        self._patiently(self._replay.close)

    def step(self) -> None:
        """Collect a chunk, append it, and learn as much as it allows.

        Redis takes a chunk in while the learner learns from those before.
        """
        steps = self._collect()
        rows = self._collector.take()
        self._patiently(lambda: self._replay.append_ahead(rows))
        if self._replay.size < self._config.replay.min_replay_size:
            return
        self._anneal()
        moment = Moment(self.env_steps / self._rates.total_env_steps, self._epsilons().mean())
        figures = self._parts.learning.take(steps, self._replay, moment)
        if figures:
            check_finite(figures, self._parts.checkpoints.steps())
            figures["epsilon"] = moment.epsilon
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
        values = self._parts.learning.learner.exploring_values(observations)
        return self._explorer.choose(values, self._epsilons(), self._collector.masks)

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

    def _patiently(self, operation: Any) -> Any:
        session = self._parts.session
        return patiently(
            operation, on_wait=session.waiting, should_stop=lambda: session.should_stop
        )


def run(config: DQNRun, parts: Parts) -> bool:
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
        finished = loop.run()
        loop.close()
        return finished
    except (ReplayUnavailable, StorageFull):
        if not parts.session.should_stop:
            raise
        loop.save()
        return False


def _first_episode(parts: Parts) -> int:
    """Ids of an attempt that a crash cut short must not come again, nor those of another run
    that appends to the same replay."""
    digest = hashlib.sha256(f"{parts.run_id}:{parts.attempt}".encode()).digest()
    return int.from_bytes(digest[:4]) << 31  # ids are counted in int64 on the way


def _open_replay(config: DQNRun, parts: Parts) -> MirrorReplay:
    schema = replay_schema(parts.spec, config.replay.frame_stack)
    name = config.replay.name or parts.run_id
    store = ReplayStore(parts.resources.redis, name, schema, config.replay.capacity)
    rates = config.dqn
    sampler = Uniform() if rates.priorities is None else _prioritized(rates.priorities)
    sampling = Sampling(parts.generator, sampler, rates.n_step, rates.discount)
    return MirrorReplay(store, sampling)


def _prioritized(config: PriorityConfig) -> Prioritized:
    return Prioritized(config.exponent, config.importance_sampling_exponent)
