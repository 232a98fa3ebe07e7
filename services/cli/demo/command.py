"""The command itself."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--seed", default=0, show_default=True, help="Of every run, and of the teacher.")
@click.option(
    "--folder",
    default=Path("var/demo"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its data goes; what an earlier demo left there is removed.",
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the table there, as JSON.",
)  # fmt: skip
def demo(seed: int, folder: Path, json_path: Path | None) -> None:
    """Train, serve, judge and teach CartPole, and say how each of it went.

    Starts a platform of its own on free ports. DQN learns through the Redis replay; 100
    episodes are driven through gRPC Act; a scripted teacher, who likes the cart near x = +1,
    labels at most 200 pairs; a reward model is fitted and judged; the policy is fine-tuned on
    a KL leash, promoted, and driven again. Calls keep flowing all the while.

    Exit code 0 only if every line of the table holds.

    \b
    Examples:
      tutelage demo
      tutelage demo --seed 3 --json build/demo.json
    """
    from services.cli.demo.journeys import run_demo

    if not run_demo(folder, seed, json_path):
        raise SystemExit(1)
