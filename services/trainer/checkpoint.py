"""A run's state on disk: tensors as safetensors, the rest as JSON. Never pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from services.common.errors import DataCorrupted, NotFound
from services.common.registry.store import FolderStore
from services.trainer.divergence import check_weights

TENSORS = "tensors.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by dotted name, and plain data, at some number of environment steps."""

    env_steps: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


class CheckpointStore:
    """Checkpoints of one run, a folder each. One is there whole or not at all."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self._folder, self._keep = folder, keep
        self._store = FolderStore(str(folder), marker=STATE)

    def steps(self) -> list[int]:
        """Environment steps at which there is a checkpoint, oldest first."""
        return sorted(int(n) for n in self._store.folders() if n.isdigit())

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, durable on return, and drop the oldest beyond `keep`.

        Raises:
            StorageFull: when the disk is full; earlier checkpoints stay.
            TrainingDiverged: when a tensor is not finite; to resume from it would be of no use.
        """
        check_weights(checkpoint.tensors, self.steps())
        tensors = {name: t.detach().contiguous() for name, t in checkpoint.tensors.items()}
        state = json.dumps({"env_steps": checkpoint.env_steps, **checkpoint.state})
        files = {TENSORS: safetensors.torch.save(tensors), STATE: state.encode()}
        self._store.create(f"{checkpoint.env_steps:012d}", files)
        for steps in self.steps()[: -self._keep]:
            shutil.rmtree(self._folder / f"{steps:012d}", ignore_errors=True)

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint; None when there is none.

        Raises:
            DataCorrupted: when its files cannot be read.
        """
        steps = self.steps()
        if not steps:
            return None
        folder = f"{steps[-1]:012d}"
        try:
            tensors = safetensors.torch.load(self._store.read(f"{folder}/{TENSORS}"))
            state = json.loads(self._store.read(f"{folder}/{STATE}"))
        except (NotFound, ValueError, safetensors.SafetensorError) as error:
            raise DataCorrupted(f"checkpoint {self._folder / folder}: {error}") from error
        return Checkpoint(state.pop("env_steps"), tensors, state)
