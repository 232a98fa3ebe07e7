"""Puts the launcher together: children, what is followed, what is shown, and the way out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import grpc

from services.cli.launcher.data_folder import claimed
from services.cli.launcher.first_steps import FirstSteps, Services
from services.cli.launcher.follow import RunFollower, ServingFollower
from services.cli.launcher.paste import addresses, things_to_paste
from services.cli.launcher.platform_children import (
    LauncherSettings,
    check_ports,
    check_redis,
    listeners,
    open_to,
    platform_children,
)
from services.cli.launcher.supervisor import Child, Supervisor
from services.cli.launcher.view import NEUTRAL, View
from tutelage.v1.feedback_pb2_grpc import FeedbackServiceStub
from tutelage.v1.policy_pb2_grpc import PolicyServiceStub
from tutelage.v1.training_pb2_grpc import TrainingServiceStub

# Beside the services' own grace: time to write a checkpoint and let go.
EXTRA_GRACE_S = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def launch(settings: LauncherSettings, view: View) -> None:
    """Run the platform until a signal to stop.

    Raises:
        TutelageError: when it cannot start, or a process of it dies again and again.
    """
    with claimed(settings.data_dir):
        check_ports(listeners(settings), settings.host)
        if settings.redis_url:
            check_redis(settings.redis_url)
        children = platform_children(settings)
        with view:
            asyncio.run(_run_until_signal(settings, children, view))


async def _run_until_signal(
    settings: LauncherSettings, children: Sequence[Child], view: View
) -> None:
    stops: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stops.put_nowait, number)
    supervisor = Supervisor(children, settings.data_dir / "logs", view)
    work = asyncio.create_task(_work(settings, children, supervisor, view))
    asked = asyncio.create_task(stops.get())
    try:
        await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            view.say(NEUTRAL, "stopping; Ctrl-C again ends it at once")
    finally:
        impatient = asyncio.create_task(_kill_on_signal(stops, supervisor))
        failure = None if not work.done() else work.exception()
        asked.cancel()
        work.cancel()
        await asyncio.gather(work, asked, return_exceptions=True)
        await supervisor.stop(settings.grace_s + EXTRA_GRACE_S)
        impatient.cancel()
    if failure is not None:
        raise failure
    view.say(NEUTRAL, f"stopped; `tutelage up` goes on with what is in {settings.data_dir}")


async def _kill_on_signal(stops: asyncio.Queue[int], supervisor: Supervisor) -> None:
    await stops.get()
    supervisor.kill()


async def _work(
    settings: LauncherSettings, children: Sequence[Child], supervisor: Supervisor, view: View
) -> None:
    credentials = settings.inference_credentials()
    async with (
        open_to(settings.inference_address, credentials) as policies,
        grpc.aio.insecure_channel(settings.trainer_address) as training,
        grpc.aio.insecure_channel(settings.feedback_address) as feedback,
    ):
        services = Services(
            PolicyServiceStub(policies),
            TrainingServiceStub(training),
            FeedbackServiceStub(feedback),
            credentials.metadata,
        )
        tasks = [
            asyncio.create_task(supervisor.run()),
            asyncio.create_task(_accompany(settings, children, supervisor, services, view)),
        ]
        try:
            # Whichever fails first ends both; neither returns by itself.
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _accompany(
    settings: LauncherSettings,
    children: Sequence[Child],
    supervisor: Supervisor,
    services: Services,
    view: View,
) -> None:
    await supervisor.all_ready()
    view.paste("\nEverything is up.\n" + addresses(children) + "\n" + things_to_paste(settings))
    runs = RunFollower(services.training, view)
    serving = ServingFollower(services.policies, view, services.metadata)
    await asyncio.gather(
        runs.follow(),
        serving.follow(),
        _first_steps(settings, FirstSteps(services, view), serving, view),
    )


async def _first_steps(
    settings: LauncherSettings, steps: FirstSteps, serving: ServingFollower, view: View
) -> None:
    had_policy = await steps.train_first_policy()
    await serving.first_policy()
    if not had_policy:  # what was shown at the start works only now, and has scrolled away
        view.paste(things_to_paste(settings))
    await steps.record_first_segments()
