"""Connections to the services, where the settings say they are.

    with trainer() as client:
        client.list_runs()

A service that is not there is said in a line that tells what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import grpc

from services.common.errors import Unavailable
from services.common.settings import PlatformSettings, load
from tutelage import Client, FeedbackClient, TrainingClient
from tutelage import errors as client_errors


@contextmanager
def inference() -> Iterator[Client]:
    """PolicyService.

    Raises:
        Unavailable: inside the block, when it does not answer.
    """
    address = load(PlatformSettings).inference_address
    with explain_silence("inference service", address), Client(address) as client:
        yield client


@contextmanager
def trainer() -> Iterator[TrainingClient]:
    """TrainingService.

    Raises:
        Unavailable: inside the block, when it does not answer.
    """
    address = load(PlatformSettings).trainer_address
    with explain_silence("trainer", address), TrainingClient(address) as client:
        yield client


@contextmanager
def feedback() -> Iterator[FeedbackClient]:
    """FeedbackService.

    Raises:
        Unavailable: inside the block, when it does not answer.
    """
    address = load(PlatformSettings).feedback_address
    with explain_silence("feedback service", address), FeedbackClient(address) as client:
        yield client


@contextmanager
def explain_silence(name: str, address: str) -> Iterator[None]:
    """Say who does not answer, and what may be missing, instead of gRPC's words for it.

    Raises:
        Unavailable: in place of the client's error, unless the service itself sent that.
    """
    try:
        yield
    except (client_errors.Unavailable, client_errors.DeadlineExceeded) as error:
        if _from_service(error):
            raise
        raise Unavailable(
            f"the {name} at {address} does not answer; is `make run` going?"
        ) from None


def _from_service(error: client_errors.TutelageError) -> bool:
    """Whether the service answered with this; it packs its own errors with their class."""
    cause = error.__cause__
    if not isinstance(cause, grpc.Call):
        return False
    metadata: Iterable[tuple[str, str | bytes]] = cause.trailing_metadata() or ()
    return any(key == "grpc-status-details-bin" for key, _ in metadata)
