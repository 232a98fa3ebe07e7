"""All kinds of runs, from presets, overrides and plain data. Unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from services.common.errors import InvalidConfig
from services.trainer.config.action_values import DQNRun, PQNRun, TabularRun
from services.trainer.config.actor_critic import A2CRun, PPORun, SACRun, TD3Run
from services.trainer.config.parts import RunConfig
from services.trainer.config.preferences import RLHFRun, SegmentsRun

PRESETS = resources.files("services.trainer") / "presets"
Run = DQNRun | PQNRun | PPORun | A2CRun | SACRun | TD3Run | TabularRun | SegmentsRun | RLHFRun
_ANY_RUN: TypeAdapter[Run] = TypeAdapter(Annotated[Run, Field(discriminator="algorithm")])


def preset_names() -> list[str]:
    """Presets that come with the trainer, sorted."""
    names = (entry.name for entry in PRESETS.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def preset_description(name: str) -> str:
    """A preset's first line: what it is for."""
    return (PRESETS / f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")


def load_preset(
    name: str, overrides: Mapping[str, str] | None = None, seed: int | None = None
) -> Run:
    """A preset with some values replaced.

    Args:
        overrides: YAML scalars by dotted key, such as {"dqn.learning_rate": "3e-4"}.

    Raises:
        InvalidConfig: for an unknown preset, an unknown key, or a value out of range, named.
    """
    if name not in preset_names():
        raise InvalidConfig(f"no preset {name!r}; there are: {', '.join(preset_names())}")
    content = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    for key, text in (overrides or {}).items():
        _override(content, key, text)
    if seed is not None:
        content["seed"] = seed
    return parse(content, source=f"preset {name}")


def parse(content: object, source: str) -> Run:
    """A configuration from plain data.

    Raises:
        InvalidConfig: naming each key that is wrong and why.
    """
    try:
        return _ANY_RUN.validate_python(content)
    except ValidationError as error:
        problems = "; ".join(_problem(p["loc"], p["type"], p["msg"]) for p in error.errors())
        raise InvalidConfig(f"{source}: {problems}") from None


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    if not location:
        return f"algorithm: {message}"
    key = ".".join(str(part) for part in location[1:])  # the first is the algorithm's name
    if kind == "extra_forbidden":
        return f"unknown key {key!r}"
    return f"{key}: {message}" if key else message


def _override(content: dict[str, Any], key: str, text: str) -> None:
    *parents, last = key.split(".")
    part = content
    for parent in parents:
        part = part.setdefault(parent, {})
        if not isinstance(part, dict):
            raise InvalidConfig(f"override {key!r}: {parent!r} is a value, not a group of keys")
    try:
        part[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # the latter for dates such as 2026-13-45
        raise InvalidConfig(f"override {key!r}: {text!r} is not a YAML value") from None


def to_yaml(config: RunConfig) -> str:
    """The whole configuration, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
