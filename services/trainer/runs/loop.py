"""What every training loop does beside learning: stop when asked, evaluate, save, go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from services.trainer.checkpoint import Checkpoint, CheckpointStore
from services.trainer.config import TrainingConfig
from services.trainer.evaluate import Greedy
from services.trainer.runs.session import RunSession


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


class Learner(Protocol):
    """What improves, can be saved, and can be asked for its best action."""

    @property
    def network(self) -> nn.Module:
        """What is judged and exported."""
        ...

    @property
    def updates(self) -> int:
        """Updates made."""
        ...

    def greedy(self, observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(B, *shape) → (B, *action), as the environment takes them."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by dotted name."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        ...


@dataclass(frozen=True)
class LoopParts:
    """What a training loop stands on."""

    session: RunSession
    judge: Judge
    checkpoints: CheckpointStore
    generator: np.random.Generator


class TrainingLoop(ABC):
    """Takes steps until the goal, the end, or the wish to stop.

    Args:
        config: of the run.
        total_env_steps: where it ends at the latest.
        parts: what it reports to and saves in.
        learner: what is improved.
    """

    def __init__(
        self, config: TrainingConfig, total_env_steps: int, parts: LoopParts, learner: Learner
    ) -> None:
        self._evaluation, self._checkpoint = config.evaluation.period, config.checkpoint.period
        self._total, self._loop, self._saved = total_env_steps, parts, learner
        self.env_steps = 0
        self._restore()

    @abstractmethod
    def step(self) -> None:
        """Take some environment steps, count them, and learn."""

    def state(self) -> dict[str, Any]:
        """More plain data to go on from, beside what every loop keeps."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have no more
        """Go on from what `state` gave."""

    def run(self) -> bool:
        """Train to the goal, to the end, or until asked to stop; True when it is finished."""
        session = self._loop.session
        evaluation_due, checkpoint_due = self._next(self._evaluation), self._next(self._checkpoint)
        while self.env_steps < self._total:
            if session.should_stop:
                self.save()
                return False
            self.step()
            session.progress("training", self.env_steps, self._total, "env steps")
            if self.env_steps >= evaluation_due:
                evaluation_due = self._next(self._evaluation)
                if self.evaluate():
                    return True
            if self.env_steps >= checkpoint_due:
                checkpoint_due = self._next(self._checkpoint)
                self.save()
        session.progress("training", self.env_steps, self._total, "env steps", now=True)
        self.evaluate()
        return True

    def evaluate(self) -> bool:
        """Have the policy judged; True when the run's goal is reached."""
        learner = self._saved
        return self._loop.judge.consider(learner.network, learner.greedy, self.env_steps)

    def save(self) -> None:
        """Make the state durable."""
        loop, learner = self._loop, self._saved
        state = {
            "updates": learner.updates,
            "episodes": loop.session.episodes,
            "generator": loop.generator.bit_generator.state,
            "judge": loop.judge.state(),
            **self.state(),
        }
        loop.checkpoints.save(Checkpoint(self.env_steps, learner.tensors(), state))
        loop.session.checkpoint_saved(self.env_steps)

    def _restore(self) -> None:
        loop = self._loop
        checkpoint = loop.checkpoints.load_newest()
        if checkpoint is None:
            loop.session.begun(0)
            return
        state = checkpoint.state
        self._saved.restore(checkpoint.tensors, state["updates"])
        loop.generator.bit_generator.state = state["generator"]
        loop.judge.restore(state["judge"])
        loop.session.episodes = state["episodes"]
        self.restore(state)
        self.env_steps = checkpoint.env_steps
        loop.session.begun(self.env_steps)
        loop.session.say(f"resumed at {self.env_steps} env steps")

    def _next(self, period: int) -> int:
        return (self.env_steps // period + 1) * period
