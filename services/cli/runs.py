"""`tutelage runs`: list, show, watch, stop and resume training runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from services.cli.launcher.words import in_turn

if TYPE_CHECKING:
    from tutelage.v1 import training_pb2

STATUS_PREFIX = "RUN_STATUS_"


@click.group(invoke_without_command=True)
@click.option("--policy", default="", help="Only runs of this policy.")
@click.pass_context
def runs(context: click.Context, policy: str) -> None:
    """List training runs, newest first; or act on one of them.

    \b
    Examples:
      tutelage runs
      tutelage runs --policy cartpole
      tutelage runs watch cartpole-dqn-20261122-101500-3f2a
      tutelage runs stop cartpole-dqn-20261122-101500-3f2a
    """
    if context.invoked_subcommand is None:
        _list(policy)


@runs.command()
@click.argument("run_id")
def show(run_id: str) -> None:
    """Show all there is to know of a run, its checkpoints and configuration included."""
    from services.cli.connections import trainer

    with trainer() as client:
        run = client.get_run(run_id)
    for name, value in facts(run):
        click.echo(f"{name:<12} {value}")
    if run.checkpoints:
        click.echo()
        _print_checkpoints(run)
    click.echo(f"\n{run.config_yaml.rstrip()}")


@runs.command()
@click.argument("run_id")
def watch(run_id: str) -> None:
    """Follow a run until it ends. Ctrl-C leaves; the run goes on.

    Exit code 1 when the run has failed.
    """
    from services.cli.connections import trainer
    from services.cli.launcher.view import view_for_stdout
    from services.cli.watching import follow_run
    from tutelage.v1 import training_pb2

    try:
        with trainer() as client, view_for_stdout() as view:
            run = follow_run(client, run_id, view)
    except KeyboardInterrupt:
        click.echo(f"\nthe run goes on; stop it with: tutelage runs stop {run_id}")
        return
    if run.status == training_pb2.RUN_STATUS_FAILED:
        raise SystemExit(1)


@runs.command()
@click.argument("run_id")
def stop(run_id: str) -> None:
    """Save a checkpoint and stop a run; returns once it has."""
    from services.cli.connections import trainer

    with trainer() as client:
        run = client.stop_run(run_id)
    click.echo(f"{run.run_id} is {status(run)}, checkpoint at {run.checkpoint_env_steps:,} steps")


@runs.command()
@click.argument("run_id")
def resume(run_id: str) -> None:
    """Go on with a stopped or failed run, from its last checkpoint."""
    from services.cli.connections import trainer

    with trainer() as client:
        run = client.resume_run(run_id)
    click.echo(
        f"{run.run_id} is {status_and_place(run)} again and goes on {origin(run)}; follow it "
        f"with: tutelage runs watch {run.run_id}"
    )


def _print_checkpoints(run: training_pb2.Run) -> None:
    from services.cli.tables import local_time, print_table

    headings = ("checkpoint", "score", "", "size", "saved")
    newest = run.checkpoints[-1].env_steps
    rows = [
        (
            f"{one.env_steps:,} steps",
            f"{one.score:.1f}" if one.HasField("score") else "",
            ", ".join(["best"] * one.best + ["newest"] * (one.env_steps == newest)),
            f"{one.bytes / 1e6:.1f} MB",
            local_time(one.saved_at),
        )
        for one in run.checkpoints
    ]
    print_table(headings, rows)


def _list(policy: str) -> None:
    from services.cli.connections import trainer
    from services.cli.tables import local_time, print_table

    with trainer() as client:
        found = client.list_runs(policy)
    if not found:
        click.echo("no runs yet; start one with: tutelage train cartpole-dqn")
        return
    headings = ("run", "preset", "status", "progress", "return", "versions", "created")
    print_table(
        headings,
        [
            (
                run.run_id,
                run.preset,
                status_and_place(run),
                progress(run),
                mean_return(run),
                versions(run),
                local_time(run.created_at),
            )
            for run in found
        ],
    )


def facts(run: training_pb2.Run) -> list[tuple[str, str]]:
    """Names and values of what a run is, those that are known."""
    from services.cli.tables import local_time

    every = [
        ("run", run.run_id),
        ("preset", run.preset),
        ("algorithm", run.algorithm),
        ("policy", run.policy),
        ("seed", str(run.seed)),
        ("status", status_and_place(run)),
        ("error", run.error),
        ("progress", progress(run)),
        ("return", mean_return(run)),
        ("versions", versions(run)),
        ("checkpoint", f"{run.checkpoint_env_steps:,} steps" if run.checkpoint_env_steps else ""),
        ("created", local_time(run.created_at)),
        ("ended", local_time(run.ended_at)),
    ]
    return [(name, value) for name, value in every if value]


def origin(run: training_pb2.Run) -> str:
    """From where a run that is resumed goes on."""
    if not run.checkpoint_env_steps:
        return "from its beginning, for it has no checkpoint"
    return f"from its checkpoint at {run.checkpoint_env_steps:,} env steps"


def status(run: training_pb2.Run) -> str:
    """`running`, `succeeded`, …"""
    from tutelage.v1 import training_pb2

    return training_pb2.RunStatus.Name(run.status).removeprefix(STATUS_PREFIX).lower()


def status_and_place(run: training_pb2.Run) -> str:
    """As `status`, with the place in the queue: `queued (2nd in turn)`."""
    return f"{status(run)} ({in_turn(run.queue_place)})" if run.queue_place else status(run)


def progress(run: training_pb2.Run) -> str:
    """`10,000 of 30,000 env steps`; empty before the first."""
    made = run.progress
    return f"{made.done:,} of {made.total:,} {made.unit}" if made.total else ""


def mean_return(run: training_pb2.Run) -> str:
    """Mean return of the last episodes; empty when unknown."""
    return f"{run.progress.mean_return:.1f}" if run.progress.HasField("mean_return") else ""


def versions(run: training_pb2.Run) -> str:
    """`1–3`, or empty."""
    published = run.published_versions
    if len(published) < 2:
        return "".join(str(version) for version in published)
    return f"{published[0]}–{published[-1]}"
