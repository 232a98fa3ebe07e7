"""Expected failures of a command: one line on stderr and exit code 1, never a traceback."""

from __future__ import annotations

import sys

import click

_MODULES = ("services.common.errors", "tutelage.errors")


class CommandGroup(click.Group):
    """A group whose commands may raise the platform's errors, or the client's."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; turn what it says no with into click's own kind of error."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(error, _expected()):
                raise click.ClickException(str(error)) from None
            raise


def _expected() -> tuple[type[Exception], ...]:
    """Roots of the errors whose message is for people.

    What nobody has imported, nobody has raised; and importing it brings gRPC along, which
    `--help` need not wait for.
    """
    loaded = (sys.modules.get(name) for name in _MODULES)
    return tuple(module.TutelageError for module in loaded if module is not None)
