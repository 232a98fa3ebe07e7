"""Expected failures of a command: one line on stderr and exit code 1, never a traceback."""

from __future__ import annotations

import click

from services.common.errors import TutelageError


class CommandGroup(click.Group):
    """A group whose commands may raise TutelageError, or an error of the client."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; turn what it says no with into click's own kind of error."""
        try:
            return super().invoke(ctx)
        except TutelageError as error:
            raise click.ClickException(str(error)) from None
