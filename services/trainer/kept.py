"""Which checkpoints of a run are on disk, and which of them are to stay. Knows nothing of torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common.registry.store import FolderStore

TENSORS = "tensors.safetensors"
ARRAYS = "arrays.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Kept:
    """A checkpoint on disk.

    saved_at: seconds since 1970.
    score: what an evaluation of the policy at this step came to; None: there was none.
    """

    env_steps: int
    saved_at: float
    bytes: int
    score: float | None


class CheckpointFolder:
    """The checkpoints of one run, a folder each. One is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.store = FolderStore(str(folder), marker=STATE)

    def steps(self) -> list[int]:
        """Environment steps at which there is a checkpoint, oldest first."""
        return sorted(int(n) for n in self.store.folders() if n.isdigit())

    def kept(self) -> list[Kept]:
        """What is there, oldest first."""
        found = (self._kept(env_steps) for env_steps in self.steps())
        return [kept for kept in found if kept is not None]

    def prune(self, keep: int) -> None:
        """Drop all but the newest few, and the best."""
        kept = self.kept()
        first = best(kept)
        for one in kept[:-keep]:
            if one is not first:
                shutil.rmtree(self.path / name_of(one.env_steps), ignore_errors=True)

    def _kept(self, env_steps: int) -> Kept | None:
        folder = self.path / name_of(env_steps)
        try:
            state = json.loads((folder / STATE).read_text())
            sizes = [file.stat().st_size for file in folder.iterdir()]
            return Kept(env_steps, (folder / STATE).stat().st_mtime, sum(sizes), state.get("score"))
        except FileNotFoundError:  # another one drops it at this moment
            return None
        except ValueError:  # damaged, which is said when somebody wants to go on from it
            return Kept(env_steps, folder.stat().st_mtime, 0, None)


def name_of(env_steps: int) -> str:
    """The folder of a checkpoint."""
    return f"{env_steps:012d}"


def best(kept: Sequence[Kept]) -> Kept | None:
    """The one with the highest score, the first of equals; None when none has one."""
    scored = [one for one in kept if one.score is not None]
    return max(scored, key=lambda one: one.score or 0.0, default=None)
