"""How a learner draws on the replay as rows come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from services.common.replay import Batch
from services.common.replay.local import LocalReplay
from services.trainer.algorithms.dqn import DQNLearner
from services.trainer.algorithms.q_learner import QLearner
from services.trainer.config import Bootstrap, DQNConfig
from services.trainer.experience import from_stretches, from_transitions
from services.trainer.schedules import linear


@dataclass(frozen=True)
class Moment:
    """When in a run an update takes place: the share of it that is done, and the mean ε now."""

    share_done: float
    epsilon: float


class Learning(Protocol):
    """Makes updates in step with the rows that come in."""

    @property
    def learner(self) -> QLearner:
        """What is improved."""
        ...

    def take(self, new_rows: int, replay: LocalReplay, moment: Moment) -> dict[str, float]:
        """Learn as much as that many new rows allow; the figures of the updates, if any."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class DrawnBatches:
    """An update on a batch drawn from all of the replay for every so many rows."""

    def __init__(self, learner: DQNLearner, config: DQNConfig) -> None:
        self.learner = learner
        self._config = config
        self._due = 0.0

    def take(self, new_rows: int, replay: LocalReplay, moment: Moment) -> dict[str, float]:
        """See `Learning`."""
        config, figures = self._config, dict[str, float]()
        if config.priorities is not None:
            replay.beta = linear(
                moment.share_done,
                config.priorities.importance_sampling_exponent,
                config.priorities.final_importance_sampling_exponent,
            )
        self._due += new_rows / config.env_steps_per_update
        while self._due >= 1:
            self._due -= 1
            figures = {**figures, **self._update(replay, moment.epsilon)}
        return figures

    def _update(self, replay: LocalReplay, epsilon: float) -> dict[str, float]:
        config, weighted = self._config, self._config.priorities is not None
        batch: Batch
        if config.bootstrap == Bootstrap.SARSA:
            stretches = replay.sample_sequences(config.batch_size, config.n_step + 1)
            batch, experience = stretches, from_stretches(stretches, config.discount, weighted)
        else:
            batch = replay.sample(config.batch_size)
            experience = from_transitions(batch, weighted)
        update = self.learner.update(experience, epsilon)
        if weighted:
            errors = update.errors.cpu().numpy()
            if not np.isfinite(errors).all():  # no priorities; who reads the figures ends the run
                return {"td_error": float(np.abs(errors).max())}
            replay.update_priorities(batch.index, errors, batch.shard)
        return update.figures

    def state(self) -> dict[str, Any]:
        """See `Learning`."""
        return {"due": self._due}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Learning`."""
        self._due = state["due"]
