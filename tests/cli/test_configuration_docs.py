"""docs/configuration.md has every setting, in the words of the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from services.feedback.settings import FeedbackSettings
from services.inference.settings import InferenceSettings
from services.trainer.settings import TrainerSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.parametrize("settings", [InferenceSettings, TrainerSettings, FeedbackSettings])
def test_every_setting_is_documented(settings: type[BaseSettings]) -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `TUTELAGE_")]
    for name, field in settings.model_fields.items():
        row = next((r for r in rows if r.startswith(f"| `TUTELAGE_{name.upper()}` |")), None)
        assert row is not None, f"add a row for TUTELAGE_{name.upper()}"
        assert row.endswith(f"| {field.description} |")
