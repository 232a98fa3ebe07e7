"""What is compared: runs by themselves, or those together that differ in their seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import yaml

from services.feedback.app.curves import Summary
from tutelage.v1 import training_pb2 as pb

SEED = "seed"
NOT_LEARNING = frozenset({SEED, "policy"})  # where it is published makes no difference to a run
MISSING = "–"
MOST_NAMED = 2  # settings in a name
# Readable on light and dark, and told apart by most people whose eyes lack a colour.
PALETTE = (
    "#0d9488",
    "#d97706",
    "#3b82f6",
    "#e11d48",
    "#8b5cf6",
    "#65a30d",
    "#0ea5e9",
    "#db2777",
    "#a16207",
    "#64748b",
)


@dataclass(frozen=True)
class Line:
    """What is drawn as one line: its name, its colour, and the runs it stands for."""

    name: str
    colour: str
    runs: tuple[pb.Run, ...]


@lru_cache(maxsize=256)
def settings(config_yaml: str) -> Mapping[str, str]:
    """A run's settings by dotted key, as they are written."""
    return dict(_flat(yaml.safe_load(config_yaml) or {}))


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _written(value)


def _written(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def differences(runs: Sequence[pb.Run]) -> dict[str, list[str]]:
    """The settings in which runs differ, a value for each run; those that all have first."""
    all_settings = [settings(run.config_yaml) for run in runs]
    keys = dict.fromkeys(key for known in all_settings for key in known)
    values = {key: [known.get(key, MISSING) for known in all_settings] for key in keys}
    differing = {key: found for key, found in values.items() if len(set(found)) > 1}
    return dict(sorted(differing.items(), key=lambda item: MISSING in item[1]))


def lines(runs: Sequence[pb.Run], summary: Summary) -> list[Line]:
    """What to draw of these runs, in their order."""
    groups: dict[tuple[str, ...], list[pb.Run]] = {}
    for run in runs:
        key = (run.run_id,) if summary == Summary.EACH else _kind(run)
        groups.setdefault(key, []).append(run)
    names = _names(list(groups.values()), summary)
    return [
        Line(name, PALETTE[i % len(PALETTE)], tuple(group))
        for i, (name, group) in enumerate(zip(names, groups.values(), strict=True))
    ]


def have_seeds_in_common(runs: Sequence[pb.Run]) -> bool:
    """Whether some of the runs differ in nothing but their seed."""
    return len({_kind(run) for run in runs}) < len(runs)


def _kind(run: pb.Run) -> tuple[str, ...]:
    known = settings(run.config_yaml)
    return (
        run.preset,
        *(f"{key}={value}" for key, value in known.items() if key not in NOT_LEARNING),
    )


def _names(groups: Sequence[Sequence[pb.Run]], summary: Summary) -> list[str]:
    """Each preset's name, and what else it takes to tell its lines apart."""
    names = []
    for group in groups:
        peers = [other[0] for other in groups if other[0].preset == group[0].preset]
        parts = [group[0].preset, *_told_apart(group[0], peers)]
        if summary == Summary.EACH:
            parts.append(f"seed {group[0].seed}")
        elif len(group) > 1:
            parts.append(f"{len(group)} seeds")
        names.append(" · ".join(parts))
    times = Counter(names)
    return [
        f"{name} · {group[0].run_id[-4:]}" if times[name] > 1 else name
        for name, group in zip(names, groups, strict=True)
    ]


def _told_apart(run: pb.Run, peers: Sequence[pb.Run]) -> list[str]:
    """The settings in which a run differs from others of its preset, the first few."""
    keys = [key for key in differences(peers) if key not in NOT_LEARNING]
    known = settings(run.config_yaml)
    told = [f"{key.rpartition('.')[2]} {known.get(key, MISSING)}" for key in keys]
    return told[:MOST_NAMED]
