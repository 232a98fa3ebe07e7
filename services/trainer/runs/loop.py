"""What every training loop does beside learning: stop when asked, evaluate, save, go on.

A run whose configuration says `deterministic` goes on from a checkpoint exactly: what it ends with
is, bit for bit, what it would have ended with had it not been stopped or killed. That takes that

- all of its state is in the checkpoint: what is learnt and its optimiser, every generator,
  exploration, running statistics, and the episodes under way; environments are brought back to
  where they were (see `services.trainer.retraced`), for which they are stepped one by one;
- the replay goes back too, in Redis and in its mirror (see `services.common.replay.exact`); it has
  more room for that, each chunk waits for Redis, and a checkpoint for its disk;
- torch keeps to deterministic algorithms, and nothing else appends to the replay;
- versions that it published already it recognises, and does not publish again.

It is the same run only with the same versions of torch, numpy and the environments, on the same
kind of processor. Its environments see other seeds than those of a run that is not
deterministic, which is why that is not done always; and it is slower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from services.trainer.arrays import Arrays
from services.trainer.checkpoint import Checkpoint, CheckpointStore
from services.trainer.config import TrainingConfig
from services.trainer.divergence import check_weights
from services.trainer.evaluate import Greedy
from services.trainer.runs.session import RunSession

TORCH = "torch_generator"


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
        self.deterministic, self._finished = config.deterministic, False
        self.env_steps = 0
        self.resumed = self._restore()

    @abstractmethod
    def step(self) -> None:
        """Take some environment steps, count them, and learn."""

    def state(self) -> dict[str, Any]:
        """More plain data to go on from, beside what every loop keeps."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have no more
        """Go on from what `state` gave."""

    def under_way(self) -> Arrays:
        """What else there is to go on from exactly: environments, and what acts in them."""
        return {}

    def take_up(self, arrays: Arrays) -> None:  # noqa: B027 - see `restore`
        """Go on exactly from what `under_way` gave."""

    def run(self) -> bool:
        """Train to the goal, to the end, or until asked to stop; True when it is finished."""
        self._take_up()
        if self._finished:  # a crash came before it could be said
            return True
        session = self._loop.session
        evaluation_due, checkpoint_due = self._next(self._evaluation), self._next(self._checkpoint)
        while self.env_steps < self._total:
            if session.should_stop:
                self.save()
                return False
            self.step()
            session.progress("training", self.env_steps, self._total, "env steps")
            if self.env_steps >= self._total:
                break
            if self.env_steps >= evaluation_due:
                evaluation_due = self._next(self._evaluation)
                if self.evaluate():
                    return self._finish()
            if self.env_steps >= checkpoint_due:
                checkpoint_due = self._next(self._checkpoint)
                self.save()
        session.progress("training", self.env_steps, self._total, "env steps", now=True)
        self.evaluate()
        return self._finish()

    def evaluate(self) -> bool:
        """Have the policy judged; True when the run's goal is reached.

        One that is better than all before it is saved, unless the run ends with it anyway.
        """
        loop, learner = self._loop, self._saved
        check_weights(learner.tensors(), loop.checkpoints.steps)
        reached = loop.judge.consider(learner.network, learner.greedy, self.env_steps)
        score = self._score()
        goes_on = not reached and 0 < self.env_steps < self._total
        if goes_on and score is not None and loop.checkpoints.is_best(score):
            self.save()
        return reached

    def save(self) -> None:
        """Make the state durable."""
        loop, learner = self._loop, self._saved
        state = {
            "updates": learner.updates,
            "generator": loop.generator.bit_generator.state,
            "judge": loop.judge.state(),
            "session": loop.session.state(),
            "finished": self._finished,
            **self.state(),
        }
        arrays: Arrays = {}
        if self.deterministic:
            arrays = {**self.under_way(), TORCH: torch.get_rng_state().numpy()}
        checkpoint = Checkpoint(self.env_steps, learner.tensors(), state, arrays, self._score())
        if loop.checkpoints.save(checkpoint):
            loop.session.checkpoint_saved(self.env_steps)

    def _finish(self) -> bool:
        self._finished = True
        self.save()
        return True

    def _score(self) -> float | None:
        """What the policy as it is now was judged to be worth."""
        score = self._loop.session.score
        return score[1] if score is not None and score[0] == self.env_steps else None

    def _restore(self) -> Checkpoint | None:
        loop = self._loop
        checkpoint = loop.checkpoints.load_newest()
        if checkpoint is None:
            loop.session.begun(0)
            return None
        state = checkpoint.state
        self._saved.restore(checkpoint.tensors, state["updates"])
        loop.generator.bit_generator.state = state["generator"]
        loop.judge.restore(state["judge"])
        self.restore(state)
        self.env_steps, self._finished = checkpoint.env_steps, state["finished"]
        loop.session.resume(self.env_steps, state["session"], exact=self.deterministic)
        return checkpoint

    def _take_up(self) -> None:
        """Go on exactly, once all is there that goes on."""
        checkpoint, self.resumed = self.resumed, None
        if checkpoint is None or not self.deterministic:
            return
        self.take_up(checkpoint.arrays)
        self._loop.generator.bit_generator.state = checkpoint.state["generator"]
        torch.set_rng_state(torch.from_numpy(checkpoint.arrays[TORCH].copy()))

    def _next(self, period: int) -> int:
        return (self.env_steps // period + 1) * period
