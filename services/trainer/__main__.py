"""`python -m services.trainer`: the trainer service, configured by TUTELAGE_ variables.

`python -m services.trainer run RUN_ID` is the process of one run, as the service starts it, and
`python -m services.trainer ready` that of one whose id it reads from its input, ready before that.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog
from prometheus_client import REGISTRY

from services.common.errors import TutelageError
from services.common.replay.metrics import ReplayCollector
from services.common.server import ServerOptions, Service, run_service
from services.common.settings import load, port_of
from services.common.telemetry import configure_logging, serve_metrics
from services.trainer.runs.manager import RunManager
from services.trainer.runs.metrics import RunCollector
from services.trainer.runs.workers import Workers
from services.trainer.servicer import TrainingServicer
from services.trainer.settings import TrainerSettings
from tutelage.v1 import training_pb2 as pb
from tutelage.v1.training_pb2_grpc import add_TrainingServiceServicer_to_server

NAME = "tutelage.v1.TrainingService"
CLOSING_S = 8.0  # within what the launcher gives


async def serve(settings: TrainerSettings) -> None:
    """Serve, and work through the queue, until told to stop."""
    starter = Workers(settings.ready_runs)
    manager = RunManager(settings.runs, settings.parallel_runs, starter)
    if settings.trainer_metrics_port:
        REGISTRY.register(RunCollector(lambda: manager.at_work))
        REGISTRY.register(ReplayCollector(lambda: settings.resources().redis))
        serve_metrics(settings.trainer_metrics_port, settings.host)
    servicer = TrainingServicer(manager)
    service = Service(NAME, lambda server: add_TrainingServiceServicer_to_server(servicer, server))
    options = ServerOptions(
        address=f"{settings.host}:{port_of(settings.trainer_address)}", grace_s=settings.grace_s
    )
    working: asyncio.Task[None] | None = None

    async def begin() -> None:
        nonlocal working
        working = asyncio.create_task(manager.work())
        working.add_done_callback(_end_with_failure)

    try:
        await run_service([service], options, until_ready=begin)
    finally:
        await manager.close(CLOSING_S)
        if working is not None:
            await working


def _end_with_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        # Without the queue the service is of no use: say so by ending, and be restarted.
        structlog.get_logger().error("the queue failed", exc_info=task.exception())
        signal.raise_signal(signal.SIGTERM)


def run_one(settings: TrainerSettings, run_id: str) -> None:
    """Be the process of one run. SIGUSR1 stops it for good, SIGTERM until the next start.

    Until it listens there is nothing to save, and either ends it at once.
    """
    from services.trainer.runs.execute import execute
    from services.trainer.runs.session import RunSession

    structlog.contextvars.bind_contextvars(run_id=run_id)
    stopped_as: list[pb.RunStatus.ValueType] = []

    def take_signals(session: RunSession) -> None:
        def stop(number: int, frame: object) -> None:
            interrupted = number == signal.SIGTERM
            stopped_as.append(pb.RUN_STATUS_QUEUED if interrupted else pb.RUN_STATUS_STOPPED)
            session.stop()

        signal.signal(signal.SIGUSR1, stop)
        signal.signal(signal.SIGTERM, stop)

    execute(
        settings.runs.get(run_id),
        settings.resources(),
        on_session=take_signals,
        stopped_status=lambda: stopped_as[-1],
    )


def run_next(settings: TrainerSettings) -> None:
    """Be ready for a run; end when there will be none."""
    from services.trainer.runs.rehearsal import rehearse

    rehearse()
    if run_id := sys.stdin.readline().strip():
        run_one(settings, run_id)


def main() -> None:
    """Exit with 0 after a signal to stop, with 1 and one clear line when it cannot serve."""
    try:
        settings = load(TrainerSettings)
        configure_logging("trainer", settings.log_format, settings.log_level)
        if sys.argv[1:2] == ["run"] and len(sys.argv) == 3:
            run_one(settings, sys.argv[2])
            return
        if sys.argv[1:] == ["ready"]:
            run_next(settings)
            return
        asyncio.run(serve(settings))
    except TutelageError as error:
        sys.exit(f"trainer: {error}")


if __name__ == "__main__":
    main()
