"""`tutelage promote`, `rollback` and `share`: which version answers, and to how many."""

from __future__ import annotations

import click

STABLE, CANARY, SHADOW = "stable", "canary", "shadow"


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


@click.command()
@click.argument("policy")
@click.argument("share", type=click.FloatRange(0, 1))
@click.option(
    "--alias",
    type=click.Choice([CANARY, SHADOW]),
    default=CANARY,
    show_default=True,
    help="canary answers them; shadow is shown them, and only compared.",
)
def share(policy: str, share: float, alias: str) -> None:
    """Give an alias of POLICY a SHARE, from 0 to 1, of the calls that follow stable.

    A session stays with the version that answered it first. A canary that errs, or is slow, loses
    its share by itself.

    \b
    Examples:
      tutelage share cartpole 0.05
      tutelage share cartpole 1 --alias shadow
      tutelage share cartpole 0
    """
    from services.cli.connections import inference

    with inference() as client:
        at = client.set_share(policy, share, alias=alias)
    has = "answers" if alias == CANARY else "is shown"
    click.echo(
        f"{policy}: {alias}, version {at.version}, {has} {share:.3g} of the calls for stable"
    )


def _moved(policy: str, alias: str, now: int, before: int) -> str:
    was = f" (was {before})" if before else ""
    return f"{policy}: {alias} is version {now}{was}"
