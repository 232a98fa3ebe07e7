"""A run's state on disk: tensors and arrays as safetensors, the rest as JSON. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
from torch import Tensor

from services.common.errors import DataCorrupted, NotFound
from services.trainer.arrays import Arrays
from services.trainer.divergence import check_weights
from services.trainer.kept import ARRAYS, STATE, TENSORS, CheckpointFolder, best, name_of


@dataclass(frozen=True)
class Checkpoint:
    """What is learnt, as tensors by dotted name, and plain data, at some number of environment
    steps.

    arrays: what else is under way, where a run is to go on exactly.
    score: what an evaluation of the policy at this step came to; None: there was none.
    """

    env_steps: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    arrays: Arrays = field(default_factory=dict)
    score: float | None = None


class CheckpointStore:
    """Writes and reads the checkpoints of one run.

    Args:
        keep: how many of the newest stay; the best stays too.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self._folder, self._keep = CheckpointFolder(folder), keep

    def steps(self) -> list[int]:
        """Environment steps at which there is a checkpoint, oldest first."""
        return self._folder.steps()

    def is_best(self, score: float) -> bool:
        """Whether it is above the score of every checkpoint."""
        first = best(self._folder.kept())
        return first is None or first.score is None or score > first.score

    def save(self, checkpoint: Checkpoint) -> bool:
        """Write a checkpoint, durable on return, and drop what is neither new nor the best.

        Returns:
            whether it was written: False when there is one at this step.

        Raises:
            StorageFull: when the disk is full; earlier checkpoints stay.
            TrainingDiverged: when a tensor is not finite; to resume from it would be of no use.
        """
        check_weights(checkpoint.tensors, self.steps)
        tensors = {name: t.detach().contiguous() for name, t in checkpoint.tensors.items()}
        arrays = {name: np.asarray(a, order="C") for name, a in checkpoint.arrays.items()}
        state = {"env_steps": checkpoint.env_steps, "score": checkpoint.score, **checkpoint.state}
        files = {
            TENSORS: safetensors.torch.save(tensors),
            ARRAYS: safetensors.numpy.save(arrays),
            STATE: json.dumps(state).encode(),
        }
        written = self._folder.store.create(name_of(checkpoint.env_steps), files)
        self._folder.prune(self._keep)
        return written

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint; None when there is none.

        Raises:
            DataCorrupted: when its files cannot be read.
        """
        steps = self.steps()
        if not steps:
            return None
        name, store = name_of(steps[-1]), self._folder.store
        try:
            tensors = safetensors.torch.load(store.read(f"{name}/{TENSORS}"))
            state = json.loads(store.read(f"{name}/{STATE}"))
            arrays = self._arrays(name)
        except (NotFound, ValueError, safetensors.SafetensorError) as error:
            raise DataCorrupted(f"checkpoint {self._folder.path / name}: {error}") from error
        score = state.pop("score", None)
        return Checkpoint(state.pop("env_steps"), tensors, state, arrays, score)

    def _arrays(self, name: str) -> Arrays:
        try:
            content = self._folder.store.read(f"{name}/{ARRAYS}")
        except NotFound:  # of a version that kept none
            return {}
        arrays: Arrays = safetensors.numpy.load(content)
        return arrays
