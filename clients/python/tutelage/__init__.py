"""Client of the Tutelage platform: ask a policy what to do, over gRPC."""

from tutelage import errors
from tutelage.aio import AsyncClient
from tutelage.client import Client
from tutelage.credentials import Credentials
from tutelage.decisions import Decision, Decisions
from tutelage.errors import TutelageError
from tutelage.feedback import FeedbackClient
from tutelage.sessions import AsyncSession, Session
from tutelage.streams import ActStream, AsyncActStream
from tutelage.training import TrainingClient

__all__ = [
    "ActStream",
    "AsyncActStream",
    "AsyncClient",
    "AsyncSession",
    "Client",
    "Credentials",
    "Decision",
    "Decisions",
    "FeedbackClient",
    "Session",
    "TrainingClient",
    "TutelageError",
    "errors",
]
