"""All kinds of runs, from presets, overrides and plain data. Unknown keys are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import resources
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from services.common.errors import InvalidConfig
from services.trainer.config.action_values import DQNRun, PQNRun, TabularRun
from services.trainer.config.actor_critic import A2CRun, PPORun, SACRun, TD3Run
from services.trainer.config.continual import ContinualRun
from services.trainer.config.parts import RunConfig
from services.trainer.config.preferences import RLHFRun, SegmentsRun

PRESETS = resources.files("services.trainer") / "presets"
Run = (
    DQNRun
    | PQNRun
    | PPORun
    | A2CRun
    | SACRun
    | TD3Run
    | TabularRun
    | SegmentsRun
    | RLHFRun
    | ContinualRun
)
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
        problems = "; ".join(_problem(p) for p in error.errors())
        raise InvalidConfig(f"{source}: {problems}") from None


def _problem(details: ErrorDetails) -> str:
    message, location = details["msg"], details["loc"]
    if not location:
        return f"algorithm: {message}"
    algorithm, *parts = map(str, location)
    key = ".".join(parts)
    if details["type"] == "extra_forbidden":
        return f"unknown key {key!r}, nearest is {_nearest(key, details['input'], algorithm)!r}"
    return f"{key}: {message}" if key else message


def _nearest(key: str, value: object, algorithm: str) -> str:
    """The valid key that was most likely meant: of the same last name, else most alike."""
    while isinstance(value, dict) and value:  # a group of keys, of which one was meant
        name, value = next(iter(value.items()))
        key += f".{name}"
    kinds = {str(get_args(k.model_fields["algorithm"].annotation)[0]): k for k in get_args(Run)}
    valid = list(_keys(kinds[algorithm]))
    last = key.rpartition(".")[2]
    named_alike = [known for known in valid if known.rpartition(".")[2] == last]
    return get_close_matches(key, named_alike or valid, n=1, cutoff=0.0)[0]


def _keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of all values of a configuration, those of groups that are unset too."""
    for name, field in kind.model_fields.items():
        of_field = (field.annotation, *get_args(field.annotation))
        groups = [k for k in of_field if isinstance(k, type) and issubclass(k, BaseModel)]
        for group in groups:
            yield from _keys(group, f"{prefix}{name}.")
        if not groups:
            yield f"{prefix}{name}"


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


def total_env_steps(config: Run) -> int:
    """Environment steps after which a run ends at the latest; 0 where it does not count in them."""
    match config:
        case SegmentsRun():
            return 0
        case DQNRun() | ContinualRun():
            return config.dqn.total_env_steps
        case PQNRun():
            return config.pqn.total_env_steps
        case TabularRun():
            return config.tabular.total_env_steps
        case RLHFRun():
            return config.tuning.total_env_steps
        case _:
            return config.rates.total_env_steps


def to_yaml(config: RunConfig) -> str:
    """The whole configuration, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
