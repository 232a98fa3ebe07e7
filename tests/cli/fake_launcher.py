"""The real launcher over fake services, as a script: what `tutelage up` is without torch."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from services.cli.errors import CommandGroup
from services.cli.launcher import launch, platform_children
from services.cli.launcher.platform_children import LauncherSettings
from services.cli.launcher.supervisor import Child
from services.cli.launcher.view import view_for_stdout
from services.common.settings import load

SERVER = Path(__file__).with_name("fake_platform.py")


def fake_children(settings: LauncherSettings) -> list[Child]:
    """The platform's children, each service replaced by its fake, the pages left out."""
    children = platform_children.platform_children(settings)
    fakes = [child for child in children if child.name != "pages"]
    return [child if child.foundation else _fake(child, settings) for child in fakes]


def _fake(child: Child, settings: LauncherSettings) -> Child:
    command = (sys.executable, str(SERVER), str(settings.data_dir), child.address)
    return replace(child, command=command)


def main() -> None:
    """As `tutelage up`."""
    launch.platform_children = fake_children
    launch.launch(load(LauncherSettings), view_for_stdout())


if __name__ == "__main__":
    import click

    group = CommandGroup(commands=[click.command("up")(main)])
    group()
