"""`tutelage policies`: what is published and what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tutelage.v1 import policy_pb2


@click.command()
@click.argument("policy", required=False, default="")
def policies(policy: str) -> None:
    """List policies with their versions, aliases and evaluations; or one POLICY.

    An alias such as "stable" points at the version that answers when none is named. A star
    marks one that the server does not follow yet.

    \b
    Examples:
      tutelage policies
      tutelage policies cartpole
    """
    from services.cli.connections import inference
    from services.cli.tables import print_table

    with inference() as client:
        found = [client.policy(policy)] if policy else client.policies()
    if not found:
        click.echo("no policies yet; train one with: tutelage train cartpole-dqn")
        return
    headings = (
        "policy",
        "version",
        "aliases",
        "state",
        "algorithm",
        "return",
        "env steps",
        "run",
        "published",
    )
    print_table(headings, [row(one, v) for one in found for v in reversed(one.versions)])


def row(policy: policy_pb2.Policy, version: policy_pb2.PolicyVersion) -> tuple[str, ...]:
    """A version's cells."""
    from services.cli.tables import local_time

    return (
        policy.name,
        str(version.version),
        aliases(policy, version.version),
        state(version),
        version.algorithm,
        f"{version.mean_return:.1f} over {version.evaluation_episodes}",
        f"{version.env_steps:,}",
        version.run_id,
        local_time(version.published_at),
    )


def aliases(policy: policy_pb2.Policy, version: int) -> str:
    """Aliases that point at a version, a star on those not served yet."""
    pointing = sorted(name for name, target in policy.aliases.items() if target == version)
    served = policy.serving
    return ", ".join(n if served.get(n) == version else f"{n}*" for n in pointing)


def state(version: policy_pb2.PolicyVersion) -> str:
    """Whether the server holds it, or why not."""
    if version.load_error:
        return f"refused: {version.load_error}"
    return "loaded" if version.loaded else ""
