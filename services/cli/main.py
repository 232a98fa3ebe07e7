"""The `tutelage` command: one verb a journey.

A command is a file here with a click command in it, and a line in COMMANDS. Commands import
what is heavy inside their function, and are themselves imported when they are used: `tutelage
--help` stays quick.
"""

from __future__ import annotations

import importlib
import os

import click

from services.cli.errors import CommandGroup

# name: (module, attribute, one line of help)
COMMANDS = {
    "up": ("services.cli.up", "up", "Run the whole platform on this machine."),
    "demo": ("services.cli.demo", "demo", "The four journeys unattended, then a table."),
    "train": ("services.cli.train", "train", "Train a policy in this terminal."),
    "presets": ("services.cli.presets", "presets", "List what runs can be started from."),
    "label": ("services.cli.label", "label", "Have a scripted teacher label pairs."),
    "runs": ("services.cli.runs", "runs", "List, watch, stop and resume training runs."),
    "replay": ("services.cli.replay", "replay", "Look at replays, check them, export and import."),
    "policies": ("services.cli.policies", "policies", "List policies and their versions."),
    "act": ("services.cli.act", "act", "Ask a policy what to do in a state."),
    "table": ("services.cli.table", "table", "Show the action values of every state."),
    "promote": ("services.cli.promote", "promote", "Point an alias at a version."),
    "rollback": ("services.cli.promote", "rollback", "Point an alias back where it was."),
    "share": ("services.cli.promote", "share", "Give a canary a share of the calls."),
}


class LazyGroup(CommandGroup):
    """Knows its commands by name, and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of COMMANDS, which is that of the journeys."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names with their lines, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tutelage-platform", prog_name="tutelage")
def main() -> None:
    """Train policies, serve them, and teach them what people prefer.

    `tutelage up` starts everything; the other commands talk to what it started. Where a
    service is elsewhere, say so with TUTELAGE_INFERENCE_ADDRESS, TUTELAGE_TRAINER_ADDRESS
    or TUTELAGE_FEEDBACK_ADDRESS (host:port).

    `tutelage COMMAND --help` explains one of them.
    """
    # gRPC's own notices of lost connections would stand between a command's lines.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
