"""What `make learn` has found so far: a JSON file a row, which seeds are added to."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learn_rows import Row
from learn_statistics import interquartile_mean, stratified_bootstrap

from services.common.durable import write_atomically

FOLDER = Path("docs/learn")


@dataclass(frozen=True)
class Summary:
    """Of the mean returns of a row's seeds: their interquartile mean, its 95% interval, the
    lowest of them."""

    iqm: float
    interval: tuple[float, float]
    lowest: float


def summarise(seeds: list[dict[str, Any]], which: str) -> Summary:
    """Of the policies `published` or `final`; each seed counts with the mean of its episodes."""
    means = [sum(s[which]["returns"]) / len(s[which]["returns"]) for s in seeds]
    interval = stratified_bootstrap([means], interquartile_mean)
    return Summary(interquartile_mean(means), interval, min(means))


def reached(row: Row, published: Summary, seeds: int) -> bool | None:
    """Whether the row is what it should be; None where nothing is asked, or seeds are missing."""
    if row.iqm is None or seeds < row.seeds:
        return None
    return published.iqm >= row.iqm and published.lowest >= (row.every_seed or -float("inf"))


class Results:
    """The seeds of a row that are there. Those of another configuration do not count.

    Args:
        stamp: what is written of each seed beside its figures, such as the commit.
    """

    def __init__(self, row: Row, stamp: dict[str, Any], folder: Path = FOLDER) -> None:
        self._row, self._stamp = row, stamp
        self._path = folder / f"{row.name}.json"
        self.seeds = self._read()

    def missing(self, count: int) -> list[int]:
        """Of the seeds from 0 to count - 1, those that are not there."""
        there = {entry["seed"] for entry in self.seeds}
        return [seed for seed in range(count) if seed not in there]

    def add(self, outcome: dict[str, Any]) -> None:
        """Another seed; durable on return."""
        self.seeds.append({**self._stamp, **outcome})
        self.seeds.sort(key=lambda entry: entry["seed"])
        content = {**self._identity(), "seeds": self.seeds}
        write_atomically(self._path, _compact(content).encode())

    def _identity(self) -> dict[str, Any]:
        # What the preset and the row set: a default that is new takes nothing from old figures.
        run = self._row.config(0)
        config = run.model_dump(mode="json", exclude={"seed"}, exclude_unset=True)
        return {"row": self._row.name, "preset": self._row.preset, "config": config}

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        content = json.loads(self._path.read_text())
        if {key: content[key] for key in self._identity()} != self._identity():
            print(f"{self._path}: of another configuration, its seeds do not count")
            return []
        seeds: list[dict[str, Any]] = content["seeds"]
        return seeds


def _compact(content: dict[str, Any]) -> str:
    """JSON with a line for each key, but lists of numbers on one."""
    seeds = [
        "  {\n"
        + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in seed.items())
        + "\n  }"
        for seed in content["seeds"]
    ]
    head = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in content.items() if k != "seeds"]
    return "{\n" + ",\n".join([*head, '"seeds": [\n' + ",\n".join(seeds) + "\n]"]) + "\n}\n"


def commit() -> str:
    """Of this work tree, with a plus where tracked files differ from it; empty without git."""
    try:
        head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
        changed = subprocess.check_output(
            ["git", "status", "--porcelain", "-uno", "--", ".", f":!{FOLDER}"], text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + "+" * bool(changed.strip())
