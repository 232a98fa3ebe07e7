"""`tutelage act`: one decision by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tutelage import Decision
    from tutelage.v1.policy_pb2 import ActionSpace

DIGEST_SHOWN = 12
DIGITS = 6


# Without it the numbers of a state that are negative would be taken for options.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("observation", nargs=-1, type=float, required=True)
@click.option("--policy", default="", help="Its name; may be left out where there is just one.")
@click.option("--version", type=click.IntRange(min=1), help="Pin a version.")
@click.option("--alias", default="stable", show_default=True, help="Follow this alias.")
@click.option("--sample", is_flag=True, help="Draw the action instead of taking the best.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Seed of the draw.")
@click.option("--temperature", type=float, help="Widens (> 1) or sharpens (< 1) the draw.")
@click.option("--probabilities", is_flag=True, help="Show the probability of every action.")
def act(
    observation: tuple[float, ...],
    policy: str,
    version: int | None,
    alias: str,
    sample: bool,
    seed: int | None,
    temperature: float | None,
    probabilities: bool,
) -> None:
    """Ask a policy what to do in a state, given as numbers.

    For CartPole these are the cart's position and speed, and the pole's angle and speed.

    \b
    Examples:
      tutelage act 0.1 0 -0.02 0 --policy cartpole
      tutelage act 0 0 0 0 --probabilities
      tutelage act 0 0 0 0 --sample --seed 7
      tutelage act 14 --policy frozenlake
    """
    from services.cli.connections import inference

    if seed is not None and not sample:
        raise click.UsageError("--seed means something only with --sample")
    with inference() as client:
        spec = client.policy(policy).spec
        if spec.observation.parts:
            raise click.UsageError("the policy observes several parts: ask it with the client")
        shape = tuple(spec.observation.shape)
        fits = len(observation) == math.prod(shape)  # what does not is for the service to refuse
        decision = client.act(
            np.reshape(observation, shape) if fits else observation,
            policy=policy,
            version=version or 0,
            alias=alias,
            sample=sample,
            seed=seed,
            temperature=temperature,
            probabilities=probabilities,
        )
    for name, value in facts(decision, spec.action):
        click.echo(f"{name:<16} {value}")


def facts(decision: Decision, space: ActionSpace) -> list[tuple[str, str]]:
    """Names and values of a decision."""
    lines = [
        ("action", action_text(decision.action, space.names)),
        ("version", f"{decision.version} (digest {decision.digest[:DIGEST_SHOWN]}…)"),
        ("log-probability", f"{decision.log_probability:.6f}"),
    ]
    if decision.seed:
        lines.append(("seed", str(decision.seed)))
    if decision.probabilities is not None:
        choices = [f"{i}: {choice}" for i, n in enumerate(space.nvec) for choice in range(n)]
        every = choices or [action_text(i, space.names) for i in range(space.n)]
        chances = zip(every, decision.probabilities, strict=True)
        lines += [(f"P({choice})", f"{p:.6f}") for choice, p in chances]
    return lines


def action_text(action: int | npt.NDArray[np.generic], names: Sequence[str]) -> str:
    """`1 (right)`, `1` where actions have no names, or `[0.25, -1.5]`."""
    if isinstance(action, np.ndarray):
        return str(np.round(action.tolist(), DIGITS).tolist())
    return f"{action} ({names[action]})" if action < len(names) else str(action)
