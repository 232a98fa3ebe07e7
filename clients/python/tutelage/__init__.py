"""Client of the Tutelage platform: ask a policy what to do, over gRPC."""

from tutelage import errors
from tutelage.aio import AsyncClient
from tutelage.client import Client
from tutelage.decisions import Decision, Decisions
from tutelage.errors import TutelageError
from tutelage.feedback import FeedbackClient
from tutelage.training import TrainingClient

__all__ = [
    "AsyncClient",
    "Client",
    "Decision",
    "Decisions",
    "FeedbackClient",
    "TrainingClient",
    "TutelageError",
    "errors",
]
