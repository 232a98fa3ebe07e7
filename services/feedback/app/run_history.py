"""What a run has told so far, kept by subject as its events arrive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

from tutelage.v1 import training_pb2 as pb

WINDOW = 100  # episodes in the running mean


@dataclass(frozen=True)
class Publication:
    """A published version and the environment steps of the evaluation before it."""

    version: int
    env_steps: int
    mean_return: float | None


@dataclass
class RunHistory:
    """Everything the charts need of one run; `add` takes only what is new.

    metrics: by name, (environment steps, value).
    """

    last_sequence: int = 0
    episodes: list[pb.EpisodeEnded] = field(default_factory=list)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    evaluations: list[pb.PolicyEvaluated] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    fits: list[pb.RewardModelFitted] = field(default_factory=list)
    messages: list[pb.Message] = field(default_factory=list)

    def add(self, events: Iterable[pb.RunEvent]) -> None:
        """Take events in order; those already taken are passed over."""
        for event in events:
            if event.sequence > self.last_sequence:
                self._take(event)
                self.last_sequence = event.sequence

    def _take(self, event: pb.RunEvent) -> None:
        match event.WhichOneof("event"):
            case "episode_ended":
                self.episodes.append(event.episode_ended)
            case "metrics":
                for name, value in event.metrics.values.items():
                    point = (event.metrics.env_steps, value)
                    self.metrics.setdefault(name, []).append(point)
            case "policy_evaluated":
                self.evaluations.append(event.policy_evaluated)
            case "policy_published":
                self.publications.append(self._publication(event.policy_published.version))
            case "reward_model_fitted":
                self.fits.append(event.reward_model_fitted)
            case "message":
                self.messages.append(event.message)

    def _publication(self, version: int) -> Publication:
        if not self.evaluations:
            return Publication(version, 0, None)
        newest = self.evaluations[-1]
        return Publication(version, newest.env_steps, newest.mean_return)


def running_means(values: list[float], window: int = WINDOW) -> list[float]:
    """Mean of the last `window` values up to each; of all there are while they are fewer."""
    sums = [0.0, *accumulate(values)]
    return [(sums[i] - sums[max(0, i - window)]) / min(i, window) for i in range(1, len(sums))]


def thinned(count: int, most: int) -> list[int]:
    """At most `most` indices of `count`, evenly spread, the last one always among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
