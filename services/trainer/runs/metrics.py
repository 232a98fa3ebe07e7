"""What runs at work tell Prometheus. A run that has ended tells nothing: the series of those at
work are as many as the trainer works on at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.trainer.runs.store import RunView
from tutelage.v1 import training_pb2 as pb

# name: (help, value); None for what is not known.
GAUGES: dict[str, tuple[str, Callable[[pb.RunProgress], float | None]]] = {
    "done": ("Work done, mostly in environment steps.", lambda p: p.done),
    "rate": ("Work done a second, over the last few seconds.", lambda p: p.rate),
    "remaining_seconds": ("Until all is done at that rate.", lambda p: p.remaining_s),
    "episodes": ("Training episodes.", lambda p: p.episodes),
    "mean_return": (
        "Of the last 100 training episodes.",
        lambda p: p.mean_return if p.HasField("mean_return") else None,
    ),
    "evaluation_return": (
        "Mean of the newest evaluation.",
        lambda p: p.evaluation_return if p.HasField("evaluation_return") else None,
    ),
}
# Of the learner's figures, those that all dashboards want; any other is in the run's history.
LEARNER = {
    "epsilon": "Share of exploratory actions.",
    "replay_ratio": "Times a step was learnt from, on average.",
}


@dataclass(frozen=True)
class RunFigures:
    """A run's figures at a moment, by the names below; `losses` by what they are of."""

    run_id: str
    algorithm: str
    values: Mapping[str, float]
    losses: Mapping[str, float]


def figures_of(view: RunView) -> RunFigures:
    """What there is to tell of a run."""
    run, learner = view.run, view.metrics
    known = {name: value(run.progress) for name, (_, value) in GAUGES.items()}
    known |= {name: learner.get(name) for name in LEARNER}
    return RunFigures(
        run_id=run.run_id,
        algorithm=run.algorithm,
        values={name: value for name, value in known.items() if value is not None},
        losses={
            name.removesuffix("loss").rstrip("_") or "total": value
            for name, value in learner.items()
            if name.endswith("loss")
        },
    )


class RunCollector(Collector):
    """Gauges of every run at work, labelled by the run and its algorithm.

    Args:
        at_work: their figures, whenever Prometheus asks.
    """

    def __init__(self, at_work: Callable[[], Iterable[RunFigures]]) -> None:
        self._at_work = at_work

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """A family a figure."""
        labels = ["run", "algorithm"]
        about = {name: text for name, (text, _) in GAUGES.items()} | LEARNER
        families = {
            name: GaugeMetricFamily(f"tutelage_run_{name}", text, labels=labels)
            for name, text in about.items()
        }
        loss = GaugeMetricFamily(
            "tutelage_run_loss", "Mean loss of late, and of its parts.", labels=[*labels, "of"]
        )
        for run in self._at_work():
            for name, value in run.values.items():
                families[name].add_metric([run.run_id, run.algorithm], value)
            for part, value in run.losses.items():
                loss.add_metric([run.run_id, run.algorithm, part], value)
        return [*families.values(), loss]
