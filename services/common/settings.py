"""Settings that more than one service reads. Wrong values refuse to boot.

Every setting is an environment variable with the prefix `TUTELAGE_`. Only entry points
(`__main__.py`, the command line, the pages) make these objects; everything below them is
handed values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.errors import InvalidConfig
from tutelage import Credentials

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
    inference_token: SecretStr = Field(
        SecretStr(""),
        description="Token that the command line and the pages show the inference service.",
    )
    inference_ca: Path | None = Field(
        None,
        description="PEM file of the authority by which they trust its certificate. Set, they "
        "connect by TLS.",
    )
    inference_client_certificate: Path | None = Field(
        None, description="PEM file of the certificate that they show it (mutual TLS)."
    )
    inference_client_key: Path | None = Field(None, description="PEM file of its key.")
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

    def inference_credentials(self) -> Credentials:
        """What the command line and the pages show the inference service, and trust it by.

        Raises:
            InvalidConfig: when a file cannot be read, or a certificate lacks its key.
        """
        return Credentials(
            token=self.inference_token.get_secret_value(),
            authority=content_of(self.inference_ca),
            certificate=content_of(self.inference_client_certificate),
            key=content_of(self.inference_client_key),
        )


def content_of(path: Path | None) -> bytes:
    """A file that a setting names; nothing where it names none.

    Raises:
        InvalidConfig: when it cannot be read.
    """
    try:
        return path.read_bytes() if path else b""
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from None


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
