"""What a run at work says of itself, and hears: its events, and the wish that it stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from services.common.registry import Evaluation
from services.trainer.runs.history import HistoryWriter
from tutelage.v1 import training_pb2 as pb

PROGRESS_PERIOD_S = 0.5
RATE_WINDOW_S = 5.0
EPISODES_AVERAGED = 100
Listener = Callable[[pb.RunEvent], None]


class RunSession:
    """Writes a run's history while it is at work.

    Args:
        history: where events go.
        listener: told each event after it is written, such as a progress bar.
        versions: that the history tells of already; a run that goes on may come by them again.
    """

    def __init__(
        self,
        history: HistoryWriter,
        listener: Listener | None = None,
        versions: Iterable[int] = (),
    ) -> None:
        self._history = history
        self._listener = listener
        self.versions = frozenset(versions)
        self.score: tuple[int, float] | None = None
        self._progress_due = 0.0
        self._metrics_due = 0.0
        self._sums: dict[str, tuple[float, int]] = {}
        self._done: deque[tuple[float, int]] = deque()
        self._returns: deque[float] = deque(maxlen=EPISODES_AVERAGED)
        self._epsilon: float | None = None
        self._evaluation: float | None = None
        self.episodes = 0
        self.should_stop = False

    def stop(self) -> None:
        """Ask the run to save a checkpoint and end."""
        self.should_stop = True

    def status(self, status: pb.RunStatus.ValueType, reason: str = "") -> None:
        """The run moved on; durable on return."""
        change = pb.RunStatusChanged(status=status, reason=reason)
        self._write(pb.RunEvent(status_changed=change), durable=True)

    def begun(self, env_steps: int) -> None:
        """Training begins, or goes on from a checkpoint at so many steps."""
        begun = pb.TrainingBegun(env_steps=env_steps, episodes=self.episodes)
        self._write(pb.RunEvent(training_begun=begun))

    def progress(self, phase: str, done: int, total: int, unit: str, *, now: bool = False) -> None:
        """How far the run is; written at most twice a second unless `now`."""
        moment = time.monotonic()
        if not now and moment < self._progress_due:
            return
        self._progress_due = moment + PROGRESS_PERIOD_S
        rate = self._rate(moment, done)
        progress = pb.RunProgress(
            phase=phase,
            done=done,
            total=total,
            unit=unit,
            rate=rate,
            remaining_s=max(total - done, 0) / rate if rate else 0.0,
            episodes=self.episodes,
            epsilon=self._epsilon,
            evaluation_return=self._evaluation,
        )
        if self._returns:
            progress.mean_return = sum(self._returns) / len(self._returns)
        self._write(pb.RunEvent(progress=progress))

    def episode(self, env_steps: int, episode_return: float, length: int) -> None:
        """A training episode ended."""
        self.episodes += 1
        self._returns.append(episode_return)
        ended = pb.EpisodeEnded(
            episode=self.episodes,
            env_steps=env_steps,
            episode_return=episode_return,
            length=length,
        )
        self._write(pb.RunEvent(episode_ended=ended))

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Learner figures; means of what came in are written at most twice a second."""
        self._epsilon = values.get("epsilon")
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        moment = time.monotonic()
        if moment < self._metrics_due or not self._sums:
            return
        self._metrics_due = moment + PROGRESS_PERIOD_S
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        self._write(pb.RunEvent(metrics=pb.Metrics(env_steps=env_steps, values=means)))

    def evaluated(
        self, env_steps: int, evaluation: Evaluation, learned_reward: float | None = None
    ) -> None:
        """The greedy policy was evaluated; `score` says of which step, and what it came to."""
        self._evaluation = evaluation.mean_return
        score = evaluation.mean_return if learned_reward is None else learned_reward
        self.score = (env_steps, score)
        event = pb.PolicyEvaluated(
            env_steps=env_steps,
            episodes=evaluation.episodes,
            mean_return=evaluation.mean_return,
            min_return=evaluation.min_return,
            max_return=evaluation.max_return,
            mean_learned_reward=learned_reward,
        )
        self._write(pb.RunEvent(policy_evaluated=event))

    def published(self, policy: str, version: int, alias: str, digest: str) -> None:
        """A version entered the policy repository; durable on return."""
        event = pb.PolicyPublished(policy=policy, version=version, alias=alias, digest=digest)
        self._write(pb.RunEvent(policy_published=event), durable=True)

    def reward_model_fitted(self, event: pb.RewardModelFitted) -> None:
        """A reward model was fitted and judged; durable on return."""
        self._write(pb.RunEvent(reward_model_fitted=event), durable=True)

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        return {
            "episodes": self.episodes,
            "returns": list(self._returns),
            "evaluation": self._evaluation,
        }

    def resume(self, env_steps: int, state: Mapping[str, Any], *, exact: bool) -> None:
        """The run goes on from a checkpoint, with what `state` gave then."""
        self.episodes = state["episodes"]
        self._returns.extend(state["returns"])
        self._evaluation = state["evaluation"]
        self.begun(env_steps)
        how = ", exactly as it was then" if exact else ""
        self.say(f"resumed at {env_steps} env steps{how}")

    def checkpoint_saved(self, env_steps: int) -> None:
        """A checkpoint is durable."""
        saved = pb.CheckpointSaved(env_steps=env_steps)
        self._write(pb.RunEvent(checkpoint_saved=saved), durable=True)

    def say(self, text: str, level: str = "info") -> None:
        """Something a person should know."""
        self._write(pb.RunEvent(message=pb.Message(level=level, text=text)))

    def waiting(self, error: Exception, seconds: float) -> None:
        """The replay does not answer; see `services.common.replay.patiently`."""
        self.say(f"{error}; nothing is lost, trying again in {seconds:.1f} s", "warning")

    def _rate(self, moment: float, done: int) -> float:
        window = self._done
        if window and done < window[-1][1]:
            window.clear()  # another phase began to count
        window.append((moment, done))
        while window[0][0] < moment - RATE_WINDOW_S and len(window) > 2:
            window.popleft()
        seconds = moment - window[0][0]
        return (done - window[0][1]) / seconds if seconds else 0.0

    def _write(self, event: pb.RunEvent, *, durable: bool = False) -> None:
        self._history.write(event, durable=durable)
        if self._listener is not None:
            self._listener(event)
