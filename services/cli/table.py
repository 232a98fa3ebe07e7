"""`tutelage table`: the action values of every state, where states can be counted."""

from __future__ import annotations

from collections.abc import Sequence

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.tables import PIPE_WIDTH

# From low to high, as (red, green, blue): readable in black on light and on dark terminals.
LOW, HIGH = (253, 230, 138), (45, 212, 191)


@click.command()
@click.argument("policy")
@click.option("--version", type=click.IntRange(min=1), help="Default: what the alias points at.")
@click.option("--alias", default="stable", show_default=True, help="Follow this alias.")
@click.option("--first", type=click.IntRange(min=0), default=0, help="First state shown.")
@click.option("--count", type=click.IntRange(min=1), help="How many; default: all.")
def table(policy: str, version: int | None, alias: str, first: int, count: int | None) -> None:
    """Show the action values of every state of POLICY, as a table and a heat map.

    For policies whose observation is the number of a state, as on FrozenLake and Taxi. A
    tabular run publishes its table once before training, as its first version.

    \b
    Examples:
      tutelage table frozenlake
      tutelage table frozenlake --version 1
      tutelage table taxi --first 100 --count 20
    """
    from services.cli.connections import inference
    from services.common.errors import InvalidInput

    with inference() as client:
        spec = client.policy(policy).spec
        if not spec.observation.n:
            raise InvalidInput(
                f"the states of {spec.environment} cannot be counted, so that {policy!r} has no "
                "table; ask for one state with: tutelage act"
            )
        if first >= spec.observation.n:
            raise InvalidInput(f"--first {first}: states go from 0 to {spec.observation.n - 1}")
        states = np.arange(spec.observation.n)[first : None if count is None else first + count]
        decided = client.act_batch(
            states, policy=policy, version=version or 0, alias=alias, probabilities=True
        )
    assert decided.parameters is not None
    names = list(spec.action.names) or [f"action {i}" for i in range(spec.action.n)]
    click.echo(f"{policy}, version {decided.version}: {spec.environment}")
    print_values(states, decided.parameters, names)


def print_values(
    states: npt.NDArray[np.int64], values: npt.NDArray[np.float64], names: Sequence[str]
) -> None:
    """Print values (states, actions), the best of each state starred and all of them coloured."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    printed = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("state", *names):
        printed.add_column(heading, justify="right")
    low, span = values.min(), max(float(np.ptp(values)), 1e-12)
    for state, row in zip(states, values, strict=True):
        best = row == row.max()
        cells = [
            _cell(value, (value - low) / span, bool(starred) and not best.all())
            for value, starred in zip(row, best, strict=True)
        ]
        printed.add_row(str(state), *cells)
    console.print(printed)


def _cell(value: float, share: float, starred: bool) -> Text:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(LOW, HIGH, strict=True))
    text = f" {value:.3f}{'*' if starred else ' '}"
    return Text(text, style=f"black on rgb({red},{green},{blue})")
