"""What a run has told so far, kept by subject as its events arrive."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from threading import Lock

from tutelage import TrainingClient
from tutelage.v1 import training_pb2 as pb

WINDOW = 100  # episodes in the running mean
SPEED = "env steps/s"
HISTORIES_KEPT = 64
ANSWER_S = 20.0


@dataclass(frozen=True)
class Publication:
    """A published version and the environment steps of the evaluation before it."""

    version: int
    env_steps: int
    mean_return: float | None


@dataclass
class RunHistory:
    """Everything the charts need of one run; `add` takes only what is new.

    metrics: by name, (environment steps, value); the speed is one of them.
    worked_s: seconds at work, those before the last interruption.
    """

    last_sequence: int = 0
    episodes: list[pb.EpisodeEnded] = field(default_factory=list)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    evaluations: list[pb.PolicyEvaluated] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    fits: list[pb.RewardModelFitted] = field(default_factory=list)
    messages: list[pb.Message] = field(default_factory=list)
    worked_s: float = 0.0
    _at_work_since_s: float | None = None

    def add(self, events: Iterable[pb.RunEvent]) -> None:
        """Take events in order; those already taken are passed over."""
        for event in events:
            if event.sequence > self.last_sequence:
                self._take(event)
                self.last_sequence = event.sequence

    def copy(self) -> RunHistory:
        """As it is now, whatever it is told from now on."""
        return replace(
            self,
            episodes=list(self.episodes),
            metrics={name: list(points) for name, points in self.metrics.items()},
            evaluations=list(self.evaluations),
            publications=list(self.publications),
            fits=list(self.fits),
            messages=list(self.messages),
        )

    def _take(self, event: pb.RunEvent) -> None:
        match event.WhichOneof("event"):
            case "episode_ended":
                self.episodes.append(event.episode_ended)
            case "metrics":
                for name, value in event.metrics.values.items():
                    point = (event.metrics.env_steps, value)
                    self.metrics.setdefault(name, []).append(point)
            case "progress" if event.progress.unit == "env steps" and event.progress.rate > 0:
                point = (event.progress.done, event.progress.rate)
                self.metrics.setdefault(SPEED, []).append(point)
            case "training_begun":
                self._go_back_to(event.training_begun)
            case "status_changed":
                self._count_work(event)
            case "policy_evaluated":
                self.evaluations.append(event.policy_evaluated)
            case "policy_published":
                self.publications.append(self._publication(event.policy_published.version))
            case "reward_model_fitted":
                self.fits.append(event.reward_model_fitted)
            case "message":
                self.messages.append(event.message)

    def _go_back_to(self, begun: pb.TrainingBegun) -> None:
        """Forget what was told of steps that are taken again."""
        del self.episodes[begun.episodes :]
        for name, points in self.metrics.items():
            self.metrics[name] = [point for point in points if point[0] <= begun.env_steps]
        kept = [e for e in self.evaluations if e.env_steps <= begun.env_steps]
        # Evaluated before the first step, a run begins by saying so again.
        self.evaluations[:] = kept if begun.env_steps else []

    def _count_work(self, event: pb.RunEvent) -> None:
        now_s = event.time.ToNanoseconds() / 1e9
        if self._at_work_since_s is not None:
            self.worked_s += now_s - self._at_work_since_s
        at_work = event.status_changed.status == pb.RUN_STATUS_RUNNING
        self._at_work_since_s = now_s if at_work else None

    def _publication(self, version: int) -> Publication:
        if not self.evaluations:
            return Publication(version, 0, None)
        newest = self.evaluations[-1]
        return Publication(version, newest.env_steps, newest.mean_return)


class Histories:
    """Histories of the runs that were looked at last, for all visitors."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[RunHistory, Lock]] = OrderedDict()
        self._lock = Lock()

    def updated(self, client: TrainingClient, run_id: str) -> RunHistory:
        """A run's history with what is new.

        Raises:
            TutelageError: when the trainer does not tell it.
        """
        with self._lock:
            history, lock = self._kept.setdefault(run_id, (RunHistory(), Lock()))
            self._kept.move_to_end(run_id)
            while len(self._kept) > HISTORIES_KEPT:
                self._kept.popitem(last=False)
        with lock:
            after = history.last_sequence
            history.add(
                client.watch_run(run_id, after_sequence=after, follow=False, timeout_s=ANSWER_S)
            )
            return history.copy()


def running_means(values: list[float], window: int = WINDOW) -> list[float]:
    """Mean of the last `window` values up to each; of all there are while they are fewer."""
    sums = [0.0, *accumulate(values)]
    return [(sums[i] - sums[max(0, i - window)]) / min(i, window) for i in range(1, len(sums))]


def thinned(count: int, most: int) -> list[int]:
    """At most `most` indices of `count`, evenly spread, the last one always among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
