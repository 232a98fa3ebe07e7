"""`tutelage train`: one run in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from services.cli.presets import list_presets

if TYPE_CHECKING:
    from services.trainer.runs.store import RunFolder
    from services.trainer.settings import TrainerSettings
    from tutelage.v1 import training_pb2 as pb


@click.command()
@click.argument("preset", required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a value.")
@click.option("--seed", type=click.IntRange(min=0), help="Default: the preset's.")
@click.option("--resume", metavar="RUN_ID", help="Go on with a run instead of starting one.")
@click.option("--list", "listing", is_flag=True, help="Say which presets there are.")
def train(
    preset: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    resume: str | None,
    listing: bool,
) -> None:
    """Train with PRESET in this terminal; Ctrl-C saves a checkpoint.

    Needs nothing running: without TUTELAGE_REDIS_URL, a Valkey of its own keeps the replay in
    the data folder. Where `tutelage up` is running on that folder, its trainer does the work
    and this terminal shows it. The policy is published to the repository that is served.

    \b
    Examples:
      tutelage train --list
      tutelage train cartpole-dqn
      tutelage train cartpole-dqn --seed 7 --set dqn.learning_rate=0.0005
      tutelage train --resume cartpole-dqn-20261122-101500-3f2a
    """
    from services.common.settings import load
    from services.trainer.config import load_preset
    from services.trainer.settings import TrainerSettings

    if listing:
        list_presets()
        return
    if (preset is None) == (resume is None):
        raise click.UsageError("say either a PRESET, see --list, or --resume RUN_ID")
    from services.cli.launcher.data_folder import claimed, is_claimed

    settings = load(TrainerSettings)
    pairs = _pairs(overrides)
    if is_claimed(settings.data_dir):  # two Valkeys on one append-only file would ruin it
        _through_service(preset, pairs, seed, resume)
        return
    if preset is not None:
        config = load_preset(preset, pairs, seed)
        with claimed(settings.data_dir):
            _run_here(settings, settings.runs.create(preset, config))
    else:
        folder = settings.runs.get(resume or "")
        with claimed(settings.data_dir):
            _run_here(settings, folder, resumed=True)


def _pairs(overrides: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--set {text}: expected KEY=VALUE, such as dqn.n_step=3")
        pairs[key] = value
    return pairs


def _through_service(
    preset: str | None, overrides: dict[str, str], seed: int | None, resume: str | None
) -> None:
    from services.cli.connections import trainer
    from services.cli.launcher.view import NEUTRAL, view_for_stdout
    from services.cli.watching import follow_run
    from tutelage.v1 import training_pb2 as pb

    with trainer() as client:
        if preset is not None:
            run = client.start_run(preset, overrides, seed=seed)
        else:
            run = client.resume_run(resume or "")
        try:
            with view_for_stdout() as view:
                view.say(NEUTRAL, f"run {run.run_id}, in the trainer that is running")
                run = follow_run(client, run.run_id, view)
        except KeyboardInterrupt:
            run = client.stop_run(run.run_id)
            click.echo(f"{_stopped(run)}: tutelage runs resume {run.run_id}")
    if run.status == pb.RUN_STATUS_FAILED:
        raise SystemExit(1)


def _run_here(settings: TrainerSettings, folder: RunFolder, *, resumed: bool = False) -> None:
    import signal
    from contextlib import ExitStack
    from dataclasses import replace

    from services.cli.launcher.follow import news
    from services.cli.launcher.view import NEUTRAL, view_for_stdout
    from services.common.embedded_redis import EmbeddedRedis
    from services.trainer.kept import CheckpointFolder
    from services.trainer.runs.execute import execute
    from services.trainer.runs.session import RunSession
    from services.trainer.runs.store import RunView
    from tutelage.v1 import training_pb2 as pb

    def stop_on_signal(session: RunSession) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: session.stop())

    with ExitStack() as stack:
        resources = settings.resources()
        if settings.redis_url is None:
            embedded = stack.enter_context(EmbeddedRedis(settings.data_dir / "redis"))
            resources = replace(resources, redis_url=embedded.url)
        view = stack.enter_context(view_for_stdout())
        view.say(NEUTRAL, f"run {folder.run_id}; Ctrl-C saves a checkpoint")
        if resumed and not CheckpointFolder(folder.checkpoints).steps():
            view.say(NEUTRAL, "it has no checkpoint to go on from, and begins anew")

        def show(event: pb.RunEvent) -> None:
            if event.HasField("progress"):
                view.progress(folder.run_id, event.progress)
            elif line := news(folder.run_id, event):
                view.say(*line)

        status = execute(folder, resources, listener=show, on_session=stop_on_signal)
    run = RunView(folder).refresh()
    if status == pb.RUN_STATUS_FAILED:
        raise click.ClickException(f"{run.run_id} failed: {run.error}")
    if status == pb.RUN_STATUS_STOPPED:
        click.echo(f"{_stopped(run)}: tutelage train --resume {run.run_id}")


def _stopped(run: pb.Run) -> str:
    if not run.checkpoint_env_steps:
        return "stopped before its first checkpoint; begin it anew with"
    return f"stopped with a checkpoint at {run.checkpoint_env_steps:,} env steps; go on with"
