"""Fitted reward models on disk, numbered by policy: safetensors and JSON, written atomically."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import safetensors.torch

from services.common.errors import DataCorrupted
from services.common.registry.store import FolderStore
from services.trainer.config import RewardConfig
from services.trainer.reward.ensemble import RewardEnsemble
from services.trainer.reward.fitting import Report

TENSORS = "model.safetensors"
REPORT = "reward.json"


class RewardModelStore:
    """Versions of each policy's reward model, from 1; one never changes once saved."""

    def __init__(self, folder: Path) -> None:
        self._store = FolderStore(str(folder), marker=REPORT)

    def versions(self, policy: str) -> list[int]:
        """Saved versions, oldest first."""
        return sorted(int(name) for name in self._store.folders(policy) if name.isdigit())

    def save(self, policy: str, ensemble: RewardEnsemble, report: Report, run_id: str) -> int:
        """Keep a model with what it was found to be worth; returns its version.

        Raises:
            StorageFull: when the disk is full.
        """
        about = {"run_id": run_id, "report": asdict(report)}
        files = {
            TENSORS: safetensors.torch.save(ensemble.state_dict()),
            REPORT: json.dumps(about, indent=2).encode(),
        }
        version = (self.versions(policy) or [0])[-1] + 1
        while not self._store.create(f"{policy}/{version}", files):
            version += 1
        return version

    def version_of(self, policy: str, run_id: str) -> int | None:
        """The newest version that a run has saved; None when it has saved none."""
        for version in reversed(self.versions(policy)):
            about = json.loads(self._store.read(f"{policy}/{version}/{REPORT}"))
            if about["run_id"] == run_id:
                return version
        return None

    def load(self, policy: str, version: int, actions: int, config: RewardConfig) -> RewardEnsemble:
        """The model that was saved.

        Args:
            actions, config: with which it was fitted.

        Raises:
            NotFound: when there is no such version.
            DataCorrupted: when its file is not such a model's.
        """
        path = f"{policy}/{version}/{TENSORS}"
        try:
            tensors = safetensors.torch.load(self._store.read(path))
            ensemble = RewardEnsemble(
                len(tensors["observation_mean"]),
                actions,
                config.members,
                config.hidden,
                config.utility_scale,
                config.max_reward,
            )
            ensemble.load_state_dict(tensors)
        except (KeyError, RuntimeError, safetensors.SafetensorError) as error:
            raise DataCorrupted(f"reward model {path}: {error}") from error
        return ensemble.requires_grad_(False)
