"""Connections to the services, where the settings say they are.

    with trainer() as client:
        client.list_runs()

A service that is not there is said in a line that tells what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import grpc

from services.common.errors import NotFound, Unavailable
from services.common.settings import PlatformSettings, load
from tutelage import Client, FeedbackClient, TrainingClient
from tutelage import errors as client_errors

if TYPE_CHECKING:
    from services.common.replay.connection import Client as RedisClient


@contextmanager
def inference() -> Iterator[Client]:
    """PolicyService.

    Raises:
        Unavailable: inside the block, when it does not answer.
    """
    settings = load(PlatformSettings)
    address, credentials = settings.inference_address, settings.inference_credentials()
    with (
        explain_silence("inference service", address),
        Client(address, credentials=credentials) as client,
    ):
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
def replays(redis_url: str | None, *, create: bool = False) -> Iterator[RedisClient]:
    """The Redis of the replays: the one named, else that of the data folder.

    That is the embedded server of `tutelage up` or of a run while one has the folder, and
    otherwise one that is started on it for as long as the block lasts.

    Args:
        create: start a server also where the folder holds no replays yet.

    Raises:
        NotFound: when no Redis is named and the folder has never had one.
        Unavailable: when the folder is in use without a server in it.
    """
    from services.cli.launcher.data_folder import claimed, is_claimed
    from services.common.embedded_redis import EmbeddedRedis, published_url
    from services.common.replay import connect

    settings = load(PlatformSettings)
    folder = settings.data_dir / "redis"
    url = redis_url or settings.redis_url
    with ExitStack() as stack:
        if url is None and is_claimed(settings.data_dir):
            url = published_url(folder)
            if url is None:
                raise Unavailable(
                    f"what runs on {settings.data_dir} has no Redis in it; say where its replays "
                    "are with --redis-url"
                )
        elif url is None:
            if not create and not folder.is_dir():
                raise NotFound(
                    f"no replays: there is no {folder}, and no Redis is named; train first, or "
                    "say where they are with --redis-url or TUTELAGE_REDIS_URL"
                )
            stack.enter_context(claimed(settings.data_dir))
            url = stack.enter_context(EmbeddedRedis(folder)).url
        yield stack.enter_context(connect(url))


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
