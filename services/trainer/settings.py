"""Settings of the trainer."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from services.common.registry import PolicyRegistry
from services.common.settings import PlatformSettings
from services.trainer.resources import Resources
from services.trainer.runs.store import RunStore

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


def tensorboard_is_installed() -> bool:
    """Whether event files can be written; without importing what writes them."""
    return find_spec("tensorboard") is not None


class TrainerSettings(PlatformSettings):
    """How the trainer listens and works. It listens on the port of trainer_address."""

    trainer_metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port of GET /metrics for Prometheus; 0 for none."
    )
    parallel_runs: Annotated[int, Field(ge=1)] = Field(
        1, description="Runs at work at once; the others wait their turn."
    )
    ready_runs: Annotated[int, Field(ge=0)] = Field(
        1,
        description="Processes kept ready for runs to come, of about 450 MB each: a run then "
        "begins at once, in place of after some seconds.",
    )
    tensorboard: bool = Field(
        default_factory=tensorboard_is_installed,
        description="Whether runs write event files for TensorBoard, to tensorboard/ in data_dir. "
        "Default: where the tensorboard package is installed.",
    )
    git_commit: str = Field("", description="Commit of this code. Default: asked of git.")

    @field_validator("tensorboard")
    @classmethod
    def _can_write(cls, wanted: bool) -> bool:
        if wanted and not tensorboard_is_installed():
            raise ValueError(
                "the tensorboard package is not installed; "
                "pip install 'tutelage-platform[tensorboard]'"
            )
        return wanted

    @property
    def runs(self) -> RunStore:
        """Runs are kept in runs/ in data_dir."""
        return RunStore(self.data_dir / "runs")

    def resources(self) -> Resources:
        """What runs are handed."""
        return Resources(
            redis_url=self.redis_url or DEFAULT_REDIS_URL,
            registry=PolicyRegistry(self.policies_url),
            feedback_address=self.feedback_address,
            reward_models=self.data_dir / "reward_models",
            git_commit=self.git_commit or _git_commit(),
            tensorboard=self.data_dir / "tensorboard" if self.tensorboard else None,
        )


def _git_commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
