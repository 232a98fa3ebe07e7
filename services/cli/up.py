"""`tutelage up`: the whole platform on this machine."""

from __future__ import annotations

import click


@click.command()
def up() -> None:
    """Run the whole platform on this machine; Ctrl-C stops it.

    Starts an embedded Valkey (unless TUTELAGE_REDIS_URL names a Redis), the trainer, the
    inference server, the feedback service and the pages. Where there is no policy yet, it
    trains one on CartPole. What must survive is kept in ./var, and the next start goes on
    with it; each process logs to var/logs.

    \b
    Examples:
      tutelage up
      TUTELAGE_APP_PORT=8600 tutelage up
      TUTELAGE_REDIS_URL=redis://redis.local:6379/0 tutelage up
    """
    from services.cli.launcher.launch import launch
    from services.cli.launcher.platform_children import LauncherSettings
    from services.cli.launcher.view import view_for_stdout
    from services.common.settings import load

    launch(load(LauncherSettings), view_for_stdout())
