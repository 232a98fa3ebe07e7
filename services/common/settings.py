"""Settings that more than one service reads. Wrong values refuse to boot.

Every setting is an environment variable with the prefix `TUTELAGE_`. Only entry points
(`__main__.py`, the command line, the pages) make these objects; everything below them is
handed values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.errors import InvalidConfig

Port = Annotated[int, Field(ge=1, le=65535)]


class PlatformSettings(BaseSettings):
    """Where things are; the same for every service."""

    model_config = SettingsConfigDict(env_prefix="TUTELAGE_", extra="ignore", env_ignore_empty=True)

    data_dir: Path = Field(Path("var"), description="Folder of all that must survive a restart.")
    redis_url: str | None = Field(
        None,
        description="redis://…, rediss://… or redis+cluster://… of the replay. "
        "`tutelage up` embeds one if unset.",
    )
    policy_repository: str | None = Field(
        None, description="fsspec URL of the policy repository. Default: policies/ in data_dir."
    )
    host: str = Field("127.0.0.1", description="Address the services listen on.")
    inference_address: str = Field("127.0.0.1:50051", description="host:port of PolicyService.")
    trainer_address: str = Field("127.0.0.1:50052", description="host:port of TrainingService.")
    feedback_address: str = Field("127.0.0.1:50053", description="host:port of FeedbackService.")
    grace_s: Annotated[float, Field(ge=0, le=600)] = Field(
        5.0, description="Seconds given to calls under way when a service is told to stop."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="console on a terminal and JSON elsewhere, unless set."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error: the least that is logged."
    )

    @property
    def policies_url(self) -> str:
        """fsspec URL of the policy repository."""
        return self.policy_repository or str(self.data_dir / "policies")


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S]) -> S:
    """Read settings from the environment.

    Raises:
        InvalidConfig: naming each variable that is wrong and why.
    """
    try:
        return kind()
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        lines = [
            f"{prefix}{'_'.join(str(part) for part in problem['loc'])}".upper()
            + f"={problem['input']!r}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise InvalidConfig("; ".join(lines)) from None


def port_of(address: str) -> int:
    """The port in `host:port`.

    Raises:
        InvalidConfig: when there is none.
    """
    _, _, port = address.rpartition(":")
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise InvalidConfig(f"{address!r} has no port, expected host:port such as 127.0.0.1:50051")
    return int(port)
