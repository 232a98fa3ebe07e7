"""The rows of `make learn`, and what each trains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from services.trainer.config import TrainingConfig, load_preset

ROWS = Path(__file__).with_name("learn_rows.yaml")


@dataclass(frozen=True)
class Row:
    """A preset with overrides, and what is asked of it; see learn_rows.yaml."""

    name: str
    environment: str
    preset: str
    steps: int
    seeds: int
    published: str
    iqm: float | None = None
    every_seed: float | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def config(self, seed: int) -> TrainingConfig:
        """What the run of a seed is configured as.

        Raises:
            InvalidConfig: when the preset or an override is not as it must be.
        """
        texts = {key: json.dumps(value) for key, value in self.overrides.items()}
        config = load_preset(self.preset, texts, seed)
        assert isinstance(config, TrainingConfig)
        return config


def load_rows(path: Path = ROWS) -> dict[str, Row]:
    """All rows by name, in the file's order."""
    content = yaml.safe_load(path.read_text())
    return {name: Row(name=name, **fields) for name, fields in content.items()}


def choose(rows: dict[str, Row], names: Sequence[str]) -> list[Row]:
    """The rows of these names; all when none is named.

    Raises:
        SystemExit: for a name that is none, saying which there are.
    """
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise SystemExit(f"no row {', '.join(unknown)}; there are: {', '.join(rows)}")
    return [rows[name] for name in names or rows]


def total_env_steps(config: TrainingConfig) -> int:
    """Where a run ends at the latest."""
    groups = config.model_dump()
    return next(
        int(group["total_env_steps"])
        for group in groups.values()
        if isinstance(group, dict) and "total_env_steps" in group
    )
