"""`tutelage promote` and `tutelage rollback`: which version answers."""

from __future__ import annotations

import click

STABLE = "stable"


@click.command()
@click.argument("policy")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--alias", default=STABLE, show_default=True, help="The alias to move.")
def promote(policy: str, version: int, alias: str) -> None:
    """Point an alias of POLICY at VERSION; calls that follow it get that version from then on.

    \b
    Examples:
      tutelage promote cartpole 3
      tutelage promote cartpole 4 --alias canary
    """
    from services.cli.connections import inference

    with inference() as client:
        moved = client.set_alias(policy, alias, version)
    click.echo(_moved(policy, alias, moved.version, moved.previous_version))


@click.command()
@click.argument("policy")
@click.option("--alias", default=STABLE, show_default=True, help="The alias to move.")
def rollback(policy: str, alias: str) -> None:
    """Point an alias of POLICY back at the version it had before.

    \b
    Examples:
      tutelage rollback cartpole
      tutelage rollback cartpole --alias canary
    """
    from services.cli.connections import inference

    with inference() as client:
        moved = client.rollback(policy, alias)
    click.echo(_moved(policy, alias, moved.version, moved.previous_version))


def _moved(policy: str, alias: str, now: int, before: int) -> str:
    was = f" (was {before})" if before else ""
    return f"{policy}: {alias} is version {now}{was}"
