"""The pages' charts: data in, Altair chart out. Colours are readable on light and dark."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd

from services.feedback.app.run_history import RunHistory, running_means, thinned
from tutelage.v1 import training_pb2 as pb

TEAL = "#0d9488"
AMBER = "#d97706"
BLUE = "#3b82f6"
GRAY = "#94a3b8"
MOST_DOTS = 1500
MOST_POINTS = 600
TALL = 240
SQUARE = 310
SMALL = 180

Chart = alt.Chart | alt.LayerChart


def returns_chart(history: RunHistory) -> alt.LayerChart:
    """Each episode's return as a faint dot, and the mean of the last 100 as a bold line."""
    returns = [episode.episode_return for episode in history.episodes]
    means = running_means(returns)
    dots = [
        {"episode": history.episodes[i].episode, "return": returns[i]}
        for i in thinned(len(returns), MOST_DOTS)
    ]
    line = [
        {"episode": history.episodes[i].episode, "mean": means[i]}
        for i in thinned(len(means), MOST_POINTS)
    ]
    x = alt.X("episode:Q", title="Episode", scale=alt.Scale(nice=False))
    faint = (
        alt.Chart(pd.DataFrame(dots, columns=["episode", "return"]))
        .mark_circle(size=14, opacity=0.35, color=GRAY)
        .encode(x=x, y=alt.Y("return:Q", title="Return"))
    )
    bold = (
        alt.Chart(pd.DataFrame(line, columns=["episode", "mean"]))
        .mark_line(strokeWidth=3, color=TEAL)
        .encode(
            x=x,
            y="mean:Q",
            tooltip=[
                alt.Tooltip("episode:Q", title="Episode"),
                alt.Tooltip("mean:Q", title="Mean of 100", format=".1f"),
            ],
        )
    )
    chart: alt.LayerChart = alt.LayerChart(layer=[faint, bold]).properties(height=TALL)
    return chart


def values_chart(
    values: npt.NDArray[np.float64], names: Sequence[str], domain: tuple[float, float]
) -> alt.Chart:
    """A heat map of action values (states, actions), a row a state; colours span `domain`."""
    rows = [
        {"state": state, "action": names[action], "value": float(value)}
        for (state, action), value in np.ndenumerate(values)
    ]
    chart: alt.Chart = (
        alt.Chart(pd.DataFrame(rows))
        .mark_rect()
        .encode(
            x=alt.X("action:N", title=None, sort=list(names), axis=alt.Axis(labelAngle=0)),
            y=alt.Y("state:O", title="State", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color(
                "value:Q", title="Value", scale=alt.Scale(scheme="viridis", domain=domain)
            ),
            tooltip=[
                alt.Tooltip("state:O", title="State"),
                alt.Tooltip("action:N", title="Action"),
                alt.Tooltip("value:Q", title="Value", format=".3f"),
            ],
        )
        .properties(height=TALL + SMALL)
    )
    return chart


def evaluations_chart(history: RunHistory) -> alt.LayerChart:
    """Evaluation returns, lowest to highest as a band, with the published versions marked."""
    rows = [
        {"steps": e.env_steps, "mean": e.mean_return, "low": e.min_return, "high": e.max_return}
        for e in history.evaluations
    ]
    frame = pd.DataFrame(rows, columns=["steps", "mean", "low", "high"])
    x = alt.X("steps:Q", title="Environment steps", axis=_steps_axis())
    base = alt.Chart(frame).encode(x=x)
    band = base.mark_area(opacity=0.18, color=BLUE).encode(
        y=alt.Y("low:Q", title="Return"), y2="high:Q"
    )
    line = base.mark_line(color=BLUE, strokeWidth=2.5, point=alt.OverlayMarkDef(color=BLUE)).encode(
        y="mean:Q", tooltip=["steps:Q", alt.Tooltip("mean:Q", format=".1f"), "low:Q", "high:Q"]
    )
    marks = [
        {"steps": p.env_steps, "mean": p.mean_return, "version": f"v{p.version}"}
        for p in history.publications
        if p.mean_return is not None
    ]
    published = alt.Chart(pd.DataFrame(marks, columns=["steps", "mean", "version"])).encode(
        x="steps:Q", y="mean:Q"
    )
    diamond = published.mark_point(shape="diamond", size=110, filled=True, color=AMBER, opacity=1)
    name = published.mark_text(dy=-13, color=AMBER, fontWeight="bold").encode(text="version:N")
    chart: alt.LayerChart = alt.LayerChart(layer=[band, line, diamond, name]).properties(
        height=SMALL
    )
    return chart


def metric_chart(points: Sequence[tuple[int, float]], title: str, colour: str) -> alt.Chart:
    """One figure of the learner over environment steps."""
    kept = [points[i] for i in thinned(len(points), MOST_POINTS)]
    chart: alt.Chart = (
        alt.Chart(pd.DataFrame(kept, columns=["steps", "value"]))
        .mark_line(color=colour, strokeWidth=2)
        .encode(
            x=alt.X("steps:Q", title="Environment steps", axis=_steps_axis()),
            y=alt.Y("value:Q", title=title),
            tooltip=["steps:Q", alt.Tooltip("value:Q", format=".4f")],
        )
        .properties(height=SMALL)
    )
    return chart


def reliability_chart(fit: pb.RewardModelFitted) -> alt.LayerChart:
    """Predicted against observed preference; a circle's area is its number of pairs."""
    rows = [
        {"predicted": b.predicted, "observed": b.observed, "pairs": b.count}
        for b in fit.bins
        if b.count
    ]
    frame = pd.DataFrame(rows, columns=["predicted", "observed", "pairs"])
    share = alt.Scale(domain=[0, 1])
    percent = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    diagonal = (
        alt.Chart(pd.DataFrame({"predicted": [0, 1], "observed": [0, 1]}))
        .mark_line(strokeDash=[5, 5], color=GRAY)
        .encode(x="predicted:Q", y="observed:Q")
    )
    base = alt.Chart(frame).encode(
        x=alt.X("predicted:Q", title="Predicted: left preferred", scale=share, axis=percent),
        y=alt.Y("observed:Q", title="Observed: left preferred", scale=share, axis=percent),
    )
    line = base.mark_line(color=TEAL, strokeWidth=2, opacity=0.6)
    circles = base.mark_circle(color=TEAL, opacity=0.9).encode(
        size=alt.Size("pairs:Q", scale=alt.Scale(domainMin=0, range=[30, 500]), legend=None),
        tooltip=[
            alt.Tooltip("predicted:Q", format=".0%"),
            alt.Tooltip("observed:Q", format=".0%"),
            "pairs:Q",
        ],
    )
    counts = base.mark_text(dx=20, dy=12, color=GRAY, fontSize=11).encode(text="pairs:Q")
    chart: alt.LayerChart = alt.LayerChart(layer=[diagonal, line, circles, counts]).properties(
        height=SQUARE
    )
    return chart


def accuracy_chart(fits: Sequence[pb.RewardModelFitted]) -> alt.LayerChart:
    """Held-out accuracy of each version with its 95% interval; chance is the dashed line."""
    rows = [
        {
            "version": f"v{f.version}",
            "accuracy": f.accuracy,
            "low": f.accuracy_low,
            "high": f.accuracy_high,
            "labels": f.train_preferences,
        }
        for f in fits
    ]
    frame = pd.DataFrame(rows, columns=["version", "accuracy", "low", "high", "labels"])
    x = alt.X("version:N", title="Reward model", sort=None, axis=alt.Axis(labelAngle=0))
    base = alt.Chart(frame).encode(x=x)
    chance = (
        alt.Chart(pd.DataFrame({"accuracy": [0.5]}))
        .mark_rule(strokeDash=[5, 5], color=GRAY)
        .encode(y="accuracy:Q")
    )
    interval = base.mark_rule(color=TEAL, strokeWidth=2, opacity=0.6).encode(
        y=alt.Y(
            "low:Q",
            title="Held-out accuracy",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(format="%"),
        ),
        y2="high:Q",
    )
    points = base.mark_circle(size=110, color=TEAL, opacity=1).encode(
        y="accuracy:Q",
        tooltip=["version:N", alt.Tooltip("accuracy:Q", format=".0%"), "labels:Q"],
    )
    chart: alt.LayerChart = alt.LayerChart(layer=[chance, interval, points]).properties(
        height=SQUARE
    )
    return chart


def _steps_axis() -> alt.Axis:
    return alt.Axis(format="~s", tickCount=5)
