"""The pages' charts: data in, Altair chart out. Colours are readable on light and dark."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd

from tutelage.v1 import training_pb2 as pb

TEAL = "#0d9488"
AMBER = "#d97706"
GRAY = "#94a3b8"
TALL = 240
SQUARE = 310
SMALL = 180

Chart = alt.Chart | alt.LayerChart


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
