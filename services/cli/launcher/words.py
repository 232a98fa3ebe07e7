"""How runs are spoken of in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tutelage.v1 import training_pb2

ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def progress_text(progress: training_pb2.RunProgress) -> str:
    """`return 201.4 · 1,250 env steps/s · 0:42 left · evaluated 480.0 · ε 0.05`, as far as known,
    or what else it is doing. What matters most is first: a narrow terminal cuts off the rest."""
    told = progress.phase == "training" and progress.HasField("mean_return")
    parts = [] if told else [progress.phase or "working"]
    if progress.HasField("mean_return"):
        parts.append(f"return {progress.mean_return:.1f}")
    if progress.rate > 0:
        parts.append(f"{progress.rate:,.{0 if progress.rate >= 10 else 1}f} {progress.unit}/s")
    if progress.remaining_s > 0:
        parts.append(f"{duration(progress.remaining_s)} left")
    if progress.HasField("evaluation_return"):
        parts.append(f"evaluated {progress.evaluation_return:.1f}")
    if progress.HasField("epsilon"):
        parts.append(f"ε {progress.epsilon:.2f}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """`0:42`, `12:05`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def in_turn(place: int) -> str:
    """`next in turn`, `2nd in turn`, `13th in turn`."""
    if place == 1:
        return "next in turn"
    ending = "th" if place % 100 in (11, 12, 13) else ENDINGS.get(place % 10, "th")
    return f"{place}{ending} in turn"
