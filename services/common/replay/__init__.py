"""The replay: transitions in Redis, appended by actors, mirrored and sampled by learners."""

from services.common.replay.backoff import patiently
from services.common.replay.connection import connect
from services.common.replay.mirror import ReplayMirror
from services.common.replay.producer import ReplayProducer
from services.common.replay.schema import Field, ReplaySchema
from services.common.replay.store import ReplayStore

__all__ = [
    "Field",
    "ReplayMirror",
    "ReplayProducer",
    "ReplaySchema",
    "ReplayStore",
    "connect",
    "patiently",
]
