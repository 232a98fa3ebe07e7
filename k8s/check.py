"""`make k8s-check`: renders base and overlays, and checks every object.

Against the strict schemas of a recent Kubernetes, in which an unknown field is an error, and
against the house rules (see `k8s.rules`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
from pydantic_settings import BaseSettings

from k8s.kubectl import RenderError, find_kubectl, render
from k8s.rules import PREFIX, Manifests, label, violations

KUBERNETES = "1.37"
FOLDER = Path(__file__).parent


def kustomizations(folder: Path = FOLDER) -> list[Path]:
    """The base, and every overlay."""
    return [folder / "base", *sorted(path.parent for path in folder.glob("overlays/*/kust*.yaml"))]


def known_settings() -> frozenset[str]:
    """Every environment variable that a service reads."""
    from services.feedback.settings import FeedbackSettings
    from services.inference.settings import InferenceSettings
    from services.trainer.settings import TrainerSettings

    kinds: tuple[type[BaseSettings], ...] = (FeedbackSettings, InferenceSettings, TrainerSettings)
    return frozenset(PREFIX + name.upper() for kind in kinds for name in kind.model_fields)


def check(objects: list[dict[str, Any]], settings: frozenset[str]) -> list[str]:
    """What is wrong with rendered objects; empty when nothing is."""
    problems = [line for item in objects for line in _schema_problems(item)]
    # The rules read fields that the schemas promise.
    return problems or violations(Manifests(objects, settings))


def _schema_problems(item: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        at = ".".join(str(part) for part in error.path)
        return [f"{label(item)}: {at}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"{label(item)}: {error.message}"]
    return []


def main() -> int:
    """Print what is wrong, or what was checked; 1 when something is wrong."""
    settings, failed = known_settings(), False
    try:
        kubectl = find_kubectl()
        for folder in kustomizations():
            objects = render(folder, kubectl)
            problems = check(objects, settings)
            failed = failed or bool(problems)
            name = folder.relative_to(FOLDER)
            sys.stdout.write(f"{name}: {len(objects)} objects, {len(problems)} problems\n")
            sys.stdout.writelines(f"  {line}\n" for line in problems)
    except RenderError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
