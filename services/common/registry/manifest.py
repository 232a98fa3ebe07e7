"""What stands beside a model file, and what an alias remembers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.common.spec import PolicySpec

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Evaluation(BaseModel):
    """Greedy episodes on seeds that training did not use; returns are undiscounted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    episodes: Annotated[int, Field(ge=0)]
    mean_return: float
    min_return: float
    max_return: float


class ObservationStatistics(BaseModel):
    """What observations were like when a version was evaluated.

    mean, std: of each element in row-major order, of a Dict's parts one after another; where there
        are more than 1024 elements, of an observation's mean alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=1)]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class PolicyManifest(BaseModel):
    """policy.json: what a version is, where it came from, and the digest of its model.

    `files` names what else stands beside the model, such as weights to train on from, by digest.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    policy: str
    version: Annotated[int, Field(ge=1)]
    spec: PolicySpec
    algorithm: str
    run_id: str
    env_steps: Annotated[int, Field(ge=0)]
    evaluation: Evaluation
    observations: ObservationStatistics | None = None
    reward_model_version: Annotated[int, Field(ge=0)] = 0
    git_commit: str = ""
    sha256: Sha256
    files: dict[str, Sha256] = {}
    published_at: datetime


class AliasState(BaseModel):
    """The version an alias points at, and those it pointed at before, newest last.

    share: of the calls that follow `stable`, those it answers (`canary`) or is shown (`shadow`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1)]
    previous: tuple[int, ...] = ()
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
