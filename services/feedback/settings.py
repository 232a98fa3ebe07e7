"""Settings of the feedback service and its pages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.common.settings import PlatformSettings, Port


class FeedbackSettings(PlatformSettings):
    """Where labels are kept and how many are wanted. Listens on the port of feedback_address."""

    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL of segments and labels, such as postgresql+psycopg://…. "
        "Default: SQLite at feedback/feedback.db in data_dir.",
    )
    clips_url: str | None = Field(
        None, description="fsspec URL of the clips. Default: feedback/clips in data_dir."
    )
    label_goal: Annotated[int, Field(ge=1)] = Field(
        200, description="Labels a task is meant to get; the pages' progress bar ends there."
    )
    held_out_share: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.25, description="Share of episodes, and of pairs, kept for judging reward models."
    )
    feedback_metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port of GET /metrics for Prometheus; 0 for none."
    )
    app_port: Port = Field(8501, description="Port of the pages.")

    @property
    def database(self) -> str:
        """SQLAlchemy URL in effect."""
        path = self.data_dir.absolute() / "feedback" / "feedback.db"
        return self.database_url or f"sqlite:///{path}"

    @property
    def clips(self) -> str:
        """fsspec URL of the clips in effect."""
        return self.clips_url or str(self.data_dir.absolute() / "feedback" / "clips")
