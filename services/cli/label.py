"""`tutelage label`: have a scripted teacher label pairs."""

from __future__ import annotations

import click


@click.command()
@click.option("--teacher", required=True, help="Who judges; see --list.")
@click.option("--policy", default="", help="Task to label. Default: the only one.")
@click.option("--count", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--labeler", default="", help="Name the labels are kept under.")
@click.option("--seed", default=0, show_default=True, help="Of the teacher's errors.")
@click.option(
    "--list", "listing", is_flag=True, is_eager=True, expose_value=False,
    callback=lambda context, option, value: _list(context, value),
    help="Say which teachers there are.",
)  # fmt: skip
def label(teacher: str, policy: str, count: int, labeler: str, seed: int) -> None:
    """Have a scripted teacher label pairs, as a person at the Label page would.

    It goes through the feedback service like everybody else, so its labels are kept and
    counted like a person's. Useful to try the loop, or to test a reward model.

    \b
    Examples:
      tutelage label --list
      tutelage label --teacher cart-at-one --policy cartpole --count 100
    """
    import numpy as np
    from rich.progress import track

    from services.cli.connections import feedback
    from services.cli.teachers import find_teacher, label_pairs

    chosen, generator = find_teacher(teacher), np.random.default_rng(seed)
    name = labeler or f"teacher-{teacher}"
    with feedback() as client:
        for _ in track(range(count), description="labelling", transient=True):
            label_pairs(client, chosen, policy, name, 1, generator)
        progress = client.get_progress(policy, name)
    click.echo(
        f"{count} labels saved; {progress.policy} now has {progress.left + progress.right} "
        f"with a side, {progress.ties} ties and {progress.skips} skips, "
        f"{progress.held_out} of them held out"
    )


def _list(context: click.Context, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from services.cli.teachers import TEACHERS

    for name, teacher in TEACHERS.items():
        click.echo(f"{name:<14} {teacher.description}")
    context.exit()
