"""What runs that learn through the Redis replay share: collect, append, mirror, learn, evaluate."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.errors import ReplayUnavailable, StorageFull
from services.common.replay import (
    ExactMirror,
    MirrorReplay,
    ReplayStore,
    Sampling,
    patiently,
)
from services.common.replay.policy_schema import replay_schema
from services.common.spec import PolicySpec
from services.trainer import environments
from services.trainer.arrays import Arrays, joined, part
from services.trainer.checkpoint import CheckpointStore
from services.trainer.collector import Choice, Collector
from services.trainer.config import ReplayConfig, TrainingConfig
from services.trainer.divergence import check_finite
from services.trainer.resources import Resources
from services.trainer.retraced import bring_back, where
from services.trainer.runs.frames import check_stacks
from services.trainer.runs.loop import Judge, Learner, LoopParts, TrainingLoop
from services.trainer.runs.session import RunSession


@dataclass(frozen=True)
class ReplayParts:
    """What a run through the replay stands on."""

    session: RunSession
    resources: Resources
    run_id: str
    attempt: int
    spec: PolicySpec
    judge: Judge
    checkpoints: CheckpointStore
    generator: np.random.Generator


class ReplayLoop(TrainingLoop):
    """Acts, appends chunks of what happened to the replay, and learns from all of it.

    Args:
        total_env_steps: where it ends at the latest.
        sampling: how batches are made of rows.
    """

    def __init__(
        self,
        config: TrainingConfig,
        replay: ReplayConfig,
        total_env_steps: int,
        sampling: Sampling,
        learner: Learner,
        parts: ReplayParts,
    ) -> None:
        self._chunk_rows, self._min_replay_size = replay.chunk_rows, replay.min_replay_size
        self._total_env_steps, self._parts = total_env_steps, parts
        self._replay: MirrorReplay = self._patiently(lambda: _open(config, replay, sampling, parts))
        loop = LoopParts(parts.session, parts.judge, parts.checkpoints, parts.generator)
        super().__init__(config, total_env_steps, loop, learner)
        self._patiently(self._catch_up)
        self._envs = environments.make_training(config)
        self._collector = Collector(
            self._envs,
            self._replay.schema,
            seed=environments.seed_from(parts.generator),
            first_episode=_first_episode(parts),
            reward_limit=replay.reward_limit,
        )
        check_stacks(self._collector.observations, replay.frame_stack, replay.frame_pad)

    @abstractmethod
    def act(self, observations: npt.NDArray[Any]) -> Choice:
        """What to do in each environment, exploration included."""

    @abstractmethod
    def learn(self, steps: int) -> dict[str, float]:
        """Learn as much as so many new steps allow; the figures of it, if any."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Steps that an update learns from."""

    @property
    def share_done(self) -> float:
        """Of the run's environment steps."""
        return self.env_steps / self._total_env_steps

    @abstractmethod
    def exploring(self) -> Arrays:
        """What exploration holds on to."""

    @abstractmethod
    def explore_on(self, arrays: Arrays) -> None:
        """Go on with what `exploring` gave."""

    def under_way(self) -> Arrays:
        """See TrainingLoop."""
        assert isinstance(self._replay, ExactMirror)
        return joined(
            replay=self._patiently(self._replay.snapshot),
            environments=where(self._envs),
            collector=self._collector.arrays(),
            exploring=self.exploring(),
        )

    def take_up(self, arrays: Arrays) -> None:
        """See TrainingLoop; the replay is where it was already."""
        self._collector.put_back(part(arrays, "collector"))
        seen = self._collector.observations
        bring_back(self._envs, part(arrays, "environments"), seen)
        self.explore_on(part(arrays, "exploring"))

    def save(self) -> None:
        """See TrainingLoop; the replay's priorities become durable too, if it answers."""
        with suppress(ReplayUnavailable, StorageFull):
            self._replay.checkpoint()
        super().save()

    def leave(self) -> None:
        """Save what there is when the replay does not answer, and will not be waited for.

        To go on exactly takes a checkpoint that the replay has a part in: then the one before
        has to do, from which all is done again.
        """
        if not self.deterministic:
            self.save()

    def close(self) -> None:
        """Return once the replay has all rows and counts of this run."""
        self._patiently(self._replay.close)

    def step(self) -> None:
        """Collect a chunk, append it, and learn as much as it allows.

        Redis takes a chunk in while the learner learns from those before; but in a
        deterministic run one waits for the other.
        """
        steps = self._collect()
        rows = self._collector.take()
        if self.deterministic:
            self._patiently(lambda: self._replay.append(rows))
            self._patiently(self._replay.sync)
        else:
            self._patiently(lambda: self._replay.append_ahead(rows))
        if self._replay.size < self._min_replay_size:
            return
        figures = self.learn(steps)
        if figures:
            check_finite(figures, self._parts.checkpoints.steps)
            figures["replay_size"] = float(self._replay.size)
            figures["replay_ratio"] = self._saved.updates * self.batch_size / self.env_steps
            self._parts.session.metrics(self.env_steps, figures)

    def _collect(self) -> int:
        """Take steps for a chunk; returns how many."""
        while self._collector.held < self._chunk_rows:
            steps, episodes = self._collector.step(self.act)
            self.env_steps += steps
            for episode in episodes:
                self._parts.session.episode(self.env_steps, episode.episode_return, episode.length)
        return self._collector.held

    def _catch_up(self) -> None:
        if isinstance(self._replay, ExactMirror):
            kept = None if self.resumed is None else part(self.resumed.arrays, "replay")
            self._replay.go_back(kept)
        else:
            self._replay.sync()

    def _patiently(self, operation: Any) -> Any:
        session = self._parts.session
        return patiently(
            operation, on_wait=session.waiting, should_stop=lambda: session.should_stop
        )


def run_loop(make: Callable[[], ReplayLoop], session: RunSession) -> bool:
    """Train until finished (True) or asked to stop (False), waiting for a replay that is away.

    Rows that the replay had not acknowledged when the run was stopped are not part of it.
    """
    try:
        loop = make()
    except (ReplayUnavailable, StorageFull):
        if session.should_stop:
            return False
        raise
    try:
        finished = loop.run()
        loop.close()
        return finished
    except (ReplayUnavailable, StorageFull):
        if not session.should_stop:
            raise
        loop.leave()
        return False


def _first_episode(parts: ReplayParts) -> int:
    """Ids of an attempt that a crash cut short must not come again, nor those of another run
    that appends to the same replay."""
    digest = hashlib.sha256(f"{parts.run_id}:{parts.attempt}".encode()).digest()
    return int.from_bytes(digest[:4]) << 31  # ids are counted in int64 on the way


def _open(
    config: TrainingConfig, replay: ReplayConfig, sampling: Sampling, parts: ReplayParts
) -> MirrorReplay:
    schema = replay_schema(parts.spec, replay.frame_stack, replay.frame_pad)
    client, name = parts.resources.redis, replay.name or parts.run_id
    if not config.deterministic:
        return MirrorReplay(ReplayStore(client, name, schema, replay.capacity), sampling)
    again = replay.room_for(config.checkpoint.period, config.environment.num_envs)
    store = ReplayStore(client, name, schema, replay.capacity + again)
    return ExactMirror(store, sampling, window=replay.capacity)
