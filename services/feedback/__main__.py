"""`python -m services.feedback`: serves FeedbackService until it is told to stop."""

from __future__ import annotations

import asyncio
import sys

from services.common.errors import TutelageError
from services.common.server import ServerOptions, Service, run_service
from services.common.settings import load, port_of
from services.common.telemetry import configure_logging, serve_metrics
from services.feedback.clip_store import ClipStore
from services.feedback.core import FeedbackCore
from services.feedback.database import Database
from services.feedback.servicer import FeedbackServicer
from services.feedback.settings import FeedbackSettings
from tutelage.v1.feedback_pb2_grpc import add_FeedbackServiceServicer_to_server

NAME = "tutelage.v1.FeedbackService"
MAX_MESSAGE_BYTES = 32 << 20  # an upload of some hundred segments with their clips


async def serve(settings: FeedbackSettings) -> None:
    """Open the database, migrate it, serve, and close it again."""
    database = Database(settings.database)
    core = FeedbackCore(database, ClipStore(settings.clips), settings.held_out_share)
    servicer = FeedbackServicer(core, settings.label_goal)
    service = Service(NAME, lambda server: add_FeedbackServiceServicer_to_server(servicer, server))
    options = ServerOptions(
        address=f"{settings.host}:{port_of(settings.feedback_address)}",
        max_message_bytes=MAX_MESSAGE_BYTES,
        grace_s=settings.grace_s,
    )
    try:
        await run_service([service], options)
    finally:
        servicer.close()
        database.close()


def main() -> None:
    """Exit with 0 after a signal to stop, with 1 and one clear line when it cannot serve."""
    try:
        settings = load(FeedbackSettings)
        configure_logging("feedback", settings.log_format, settings.log_level)
        if settings.feedback_metrics_port:
            serve_metrics(settings.feedback_metrics_port, settings.host)
        asyncio.run(serve(settings))
    except TutelageError as error:
        sys.exit(f"feedback: {error}")


if __name__ == "__main__":
    main()
