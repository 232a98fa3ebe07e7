"""Charts of runs over environment steps. Each line has its own colour in all of them; pointing at
a step tells what every line has there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from services.feedback.app.charts import AMBER, GRAY
from services.feedback.app.comparing import Line
from services.feedback.app.curves import (
    Array,
    Band,
    Summary,
    grid,
    on_grid,
    return_points,
    summarised,
)
from services.feedback.app.run_history import RunHistory, thinned
from tutelage.v1 import training_pb2 as pb

TALL = 340
SMALL = 190
MOST_DOTS = 1200
FAINT = 0.12
LEGEND_ROW_PX = 22
LEGEND_CHARACTERS = 125
ROOM_PX = 6  # for a circle at an end

Histories = Mapping[str, RunHistory]
Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Look:
    """How charts are drawn: what stands for several seeds, and which axes are logarithmic."""

    summary: Summary = Summary.EACH
    log_steps: bool = False
    log_values: bool = False


def returns_chart(lines: Sequence[Line], histories: Histories, look: Look) -> alt.LayerChart:
    """Mean return of the last 100 episodes, and a circle for each evaluation.

    Of one run alone, the episodes too, and the versions it published.
    """
    points = {run_id: return_points(history) for run_id, history in histories.items()}
    layers = _curves(lines, points, look, "Return")
    circles = _evaluations(lines, histories, look)
    if circles is not None:
        layers.append(circles)
    if _alone(lines):
        layers = _of_one_run(histories[lines[0].runs[0].run_id], look) + layers
    rows = 0 if _alone(lines) else -(-len(lines) // _legend_columns(lines))
    return _finished(layers, TALL + LEGEND_ROW_PX * rows)


def figure_chart(
    name: str, lines: Sequence[Line], histories: Histories, look: Look
) -> alt.LayerChart:
    """One of the learner's figures."""
    points = {run_id: history.metrics.get(name, []) for run_id, history in histories.items()}
    if look.log_values:  # where there is nothing to take a logarithm of, there is a gap
        points = {run_id: [p for p in known if p[1] > 0] for run_id, known in points.items()}
    return _finished(_curves(lines, points, look, None), SMALL)


def _finished(layers: Sequence[alt.Chart], height: int) -> alt.LayerChart:
    chart: alt.LayerChart = alt.LayerChart(layer=list(layers)).properties(height=height)
    return chart


def _curves(
    lines: Sequence[Line], points: Mapping[str, Points], look: Look, title: str | None
) -> list[alt.Chart]:
    """Bands, lines, and what is told where the pointer is."""
    last = max((known[-1][0] for known in points.values() if known), default=1)
    steps = grid(last, log=look.log_steps)
    bands = {line.name: _band(line, points, steps, look.summary) for line in lines}
    frame = _frame(bands, steps)
    color = _color(lines, named=title is not None)
    x = _steps(look)
    y = alt.Y("value:Q", title=title, scale=_scale(look.log_values))
    named = alt.selection_point(fields=["line"], bind="legend")
    shown = alt.condition(named, alt.value(1.0), alt.value(FAINT))
    base = alt.Chart(frame).encode(x=x, color=color)
    line = base.mark_line(strokeWidth=2.5).encode(y=y, opacity=shown)
    layers = [line.add_params(named)]
    if any(len(line.runs) > 1 for line in lines):
        area = base.mark_area(stroke=None).encode(
            y=alt.Y("low:Q", title=title, scale=_scale(look.log_values)),
            y2="high:Q",
            opacity=alt.condition(named, alt.value(0.2), alt.value(0.04)),
        )
        layers.insert(0, area)
    return [*layers, *_pointer(frame, lines, look)]


def _pointer(frame: pd.DataFrame, lines: Sequence[Line], look: Look) -> list[alt.Chart]:
    """A rule at the step nearest to the pointer, with a tooltip of every line's value there."""
    at = alt.selection_point(nearest=True, on="pointerover", fields=["steps"], empty=False)
    columns = {line.name: f"line{i}" for i, line in enumerate(lines)}  # names may have dots
    wide = frame.assign(column=frame["line"].map(columns)).pivot(
        index="steps", columns="column", values="value"
    )
    tooltip = [alt.Tooltip("steps:Q", title="Environment steps", format=",.0f")]
    tooltip += [
        alt.Tooltip(f"{column}:Q", title=name, format=",.4~g")
        for name, column in columns.items()
        if column in wide
    ]
    rule = (
        alt.Chart(wide.reset_index())
        .mark_rule(color=GRAY, strokeWidth=1)
        .encode(
            x=_steps(look),
            opacity=alt.condition(at, alt.value(0.8), alt.value(0)),
            tooltip=tooltip,
        )
        .add_params(at)
    )
    return [rule]


def _evaluations(lines: Sequence[Line], histories: Histories, look: Look) -> alt.Chart | None:
    rows = [
        {
            "line": line.name,
            "steps": judged.env_steps,
            "value": judged.mean_return,
            "low": judged.min_return,
            "high": judged.max_return,
            "run": run.run_id,
        }
        for line in lines
        for run in line.runs
        for judged in histories[run.run_id].evaluations
        if judged.env_steps or not look.log_steps
    ]
    if not rows:
        return None
    chart: alt.Chart = (
        alt.Chart(pd.DataFrame(rows))
        .mark_point(size=38, filled=False, strokeWidth=1.6, opacity=0.85)
        .encode(
            x=_steps(look),
            y="value:Q",
            color=_color(lines, named=True),
            tooltip=[
                alt.Tooltip("run:N", title="Evaluation of"),
                alt.Tooltip("steps:Q", title="Environment steps", format=",.0f"),
                alt.Tooltip("value:Q", title="Mean return", format=".1f"),
                alt.Tooltip("low:Q", title="Lowest", format=".1f"),
                alt.Tooltip("high:Q", title="Highest", format=".1f"),
            ],
        )
    )
    return chart


def _of_one_run(history: RunHistory, look: Look) -> list[alt.Chart]:
    """Every episode as a faint dot, and the published versions by name."""
    episodes = [history.episodes[i] for i in thinned(len(history.episodes), MOST_DOTS)]
    dots = pd.DataFrame(
        [{"steps": e.env_steps, "value": e.episode_return} for e in episodes],
        columns=["steps", "value"],
    )
    faint = alt.Chart(dots).mark_circle(size=14, opacity=0.4, color=GRAY)
    marks = [
        {"steps": p.env_steps, "value": p.mean_return, "version": f"v{p.version}"}
        for p in history.publications
        if p.mean_return is not None and (p.env_steps or not look.log_steps)
    ]
    published = alt.Chart(pd.DataFrame(marks, columns=["steps", "value", "version"]))
    name = published.mark_text(dy=-13, color=AMBER, fontWeight="bold")
    diamond = published.mark_point(shape="diamond", size=100, filled=True, color=AMBER, opacity=1)
    place = {"x": _steps(look), "y": alt.Y("value:Q", title="Return", scale=_scale(False))}
    return [
        faint.encode(**place),
        diamond.encode(**place),
        name.encode(text="version:N", **place),
    ]


def _band(line: Line, points: Mapping[str, Points], steps: Array, summary: Summary) -> Band:
    # One that is done before the others of its line goes on counting as it ended.
    known = [points[run.run_id] for run in line.runs]
    end = max((told[-1][0] for told in known if told), default=0)
    curves = [
        on_grid(told, steps, hold=run.status == pb.RUN_STATUS_SUCCEEDED)
        for run, told in zip(line.runs, known, strict=True)
    ]
    together = np.where(steps <= end, np.stack(curves), np.nan)
    return summarised(together, summary)


def _frame(bands: Mapping[str, Band], steps: Array) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {
                "line": name,
                "steps": steps,
                "value": band.value,
                "low": band.low,
                "high": band.high,
            }
        )
        for name, band in bands.items()
    ]
    return pd.concat(frames).dropna(subset=["value"])


def _color(lines: Sequence[Line], *, named: bool) -> alt.Color:
    scale = alt.Scale(domain=[line.name for line in lines], range=[line.colour for line in lines])
    legend = alt.Legend(
        title=None,
        orient="top",
        columns=_legend_columns(lines),
        labelLimit=420,
        symbolOpacity=1,
        symbolType="circle",
    )
    return alt.Color("line:N", scale=scale, legend=None if not named or _alone(lines) else legend)


def _legend_columns(lines: Sequence[Line]) -> int:
    longest = max(len(line.name) for line in lines)
    return max(LEGEND_CHARACTERS // (longest + 5), 1)


def _alone(lines: Sequence[Line]) -> bool:
    return sum(len(line.runs) for line in lines) == 1


def _steps(look: Look) -> alt.X:
    return alt.X(
        "steps:Q",
        title="Environment steps",
        axis=alt.Axis(format="~s", tickCount=6),
        scale=alt.Scale(type="log" if look.log_steps else "linear", nice=False, padding=ROOM_PX),
    )


def _scale(log: bool) -> alt.Scale:
    return alt.Scale(type="log" if log else "linear", nice=False, zero=False, padding=ROOM_PX)
