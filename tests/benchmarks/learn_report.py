"""The table and the learning curves of what `make learn` has found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from learn_results import Results, Summary, reached, summarise
from learn_rows import Row
from learn_statistics import interquartile_mean

mpl.use("svg")
from matplotlib import pyplot as plt  # once it is said how to draw

HEAD = """# How well the presets learn

Written by `make learn`; `tests/benchmarks/learn.py` says how. A seed counts with the mean return
of 100 greedy episodes on fresh seeds, a row with the interquartile mean (IQM) of its seeds and a
bootstrap 95% interval. *Published* is the policy under `stable` when the run ended, chosen by
evaluation episodes whose steps are counted; *final* is the network at the end. What is known of
each seed (returns, curve, commit, command, machine, times) is in the row's JSON file.

Wall times are of runs at low priority on a machine that had other work and paused them for it
(each seed's `load_when_begun` says how much): nothing is to be compared by them.

| row | environment | seeds | published: IQM (95%) | lowest seed | final: IQM (95%) | asked | \
| training steps | evaluation steps | wall time a seed | reported elsewhere |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""
VERDICTS = {True: "reached", False: "**short**", None: ""}


def write_report(rows: list[Row], folder: Path) -> str:
    """The table as Markdown, into README.md, with a plot a row; rows without seeds are left out."""
    lines, plots = [], []
    for row in rows:
        seeds = Results(row, {}, folder).seeds
        if not seeds:
            continue
        lines.append(line_of(row, seeds))
        draw(row, seeds, folder / f"{row.name}.svg")
        plots.append(f"![{row.name}]({row.name}.svg)\n")
    table = HEAD + "\n".join(lines) + "\n"
    (folder / "README.md").write_text(table + "\n## Learning curves\n\n" + "".join(plots))
    return table


def line_of(row: Row, seeds: list[dict[str, Any]]) -> str:
    """A row of the table."""
    published, final = summarise(seeds, "published"), summarise(seeds, "final")
    asked = "" if row.iqm is None else f"≥ {row.iqm:g}"
    if row.every_seed is not None:
        asked += f", each ≥ {row.every_seed:g}"
    evaluation = np.mean([seed["evaluation"]["steps"] for seed in seeds])
    trained = np.mean([seed["env_steps"] for seed in seeds])
    cells = [
        f"[{row.name}]({row.name}.json)",
        row.environment,
        f"{len(seeds)} of {row.seeds}",
        _shown(published),
        f"{published.lowest:.1f}",
        _shown(final),
        asked,
        VERDICTS[reached(row, published, len(seeds))],
        f"{trained:,.0f} of {row.steps:,}",
        f"{evaluation:,.0f}",
        f"{np.median([seed['wall_s'] for seed in seeds]):,.0f} s",
        row.published,
    ]
    return "| " + " | ".join(cells) + " |"


def _shown(summary: Summary) -> str:
    low, high = summary.interval
    return f"{summary.iqm:.1f} ({low:.1f} to {high:.1f})"


def draw(row: Row, seeds: list[dict[str, Any]], path: Path) -> None:
    """Mean return of training episodes of each seed, their interquartile mean, evaluations."""
    mpl.rcParams["svg.hashsalt"] = row.name  # the same figures give the same file
    mpl.rcParams["svg.fonttype"] = "none"  # letters as such are a fraction of their outlines
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for seed in seeds:
        axes.plot(*_columns(seed["training"]), color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(*_columns(seed["evaluations"]), ".", color="tab:orange", alpha=0.5, markersize=3)
    axes.plot(*_middle(seeds), color="tab:blue", linewidth=2, label="training episodes, IQM")
    axes.plot([], [], ".", color="tab:orange", label="greedy evaluations")
    if row.iqm is not None:
        axes.axhline(row.iqm, color="grey", linestyle="--", linewidth=1, label="asked of the IQM")
    axes.set(title=f"{row.name}, {len(seeds)} seeds", xlabel="environment steps", ylabel="return")
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _columns(curve: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]


def _middle(seeds: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """The interquartile mean over the seeds that have episodes there, by steps."""
    at: dict[int, list[float]] = {}
    for seed in seeds:
        for step, value in seed["training"]:
            at.setdefault(step, []).append(value)
    return sorted(at), [interquartile_mean(at[step]) for step in sorted(at)]
