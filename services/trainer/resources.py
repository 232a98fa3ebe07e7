"""What the trainer's process hands to its runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.registry import PolicyRegistry
from services.common.replay import connect
from services.common.replay.connection import Client

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Resources:
    """Addresses of the peers, and where things are kept.

    redis_url: the replay's Redis.
    registry: the policy repository.
    feedback_address: host:port of the feedback service.
    reward_models: folder of fitted reward models.
    git_commit: of this code; empty when unknown.
    tensorboard: folder of TensorBoard's event files; None: none are written.
    """

    redis_url: str
    registry: PolicyRegistry
    feedback_address: str
    reward_models: Path
    git_commit: str = ""
    tensorboard: Path | None = None

    @cached_property
    def redis(self) -> Client:
        """A client of the replay's Redis, connected on first use."""
        return connect(self.redis_url)

    @cached_property
    def device(self) -> torch.device:
        """CUDA where there is one, else the CPU."""
        import torch  # here, as the service, which starts runs, has no need of it

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
