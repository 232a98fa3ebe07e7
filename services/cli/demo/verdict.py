"""The table at the end: what was measured, what was asked, and whether it holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Line:
    """One line of the table; `holds` is None for what is only told."""

    what: str
    measured: str
    asked: str = ""
    holds: bool | None = None


def print_verdict(lines: Sequence[Line]) -> None:
    """Print the table."""
    table = Table(title="What the demo measured", title_justify="left")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("asked", justify="right")
    table.add_column("holds", justify="center")
    for line in lines:
        mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}[line.holds]
        table.add_row(line.what, line.measured, line.asked, mark)
    console = Console()
    console.print(table)


def all_hold(lines: Sequence[Line]) -> bool:
    """Whether every line that asks for something got it."""
    return all(line.holds is not False for line in lines)


def write_json(lines: Sequence[Line], path: Path) -> None:
    """The table for programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(line) for line in lines], indent=2) + "\n")
