"""The replay: transitions in Redis, appended by actors, mirrored and sampled by learners."""

from services.common.replay.backoff import patiently
from services.common.replay.batch import Batch, SequenceBatch, Transitions
from services.common.replay.connection import connect
from services.common.replay.fragments import FragmentBuilder
from services.common.replay.local import Sampling
from services.common.replay.memory import MemoryReplay
from services.common.replay.mirror import MirrorReplay
from services.common.replay.producer import ReplayProducer
from services.common.replay.relabel import Relabeler
from services.common.replay.samplers import Prioritized, Uniform
from services.common.replay.schema import Field, ReplaySchema
from services.common.replay.store import ReplayStore

__all__ = [
    "Batch",
    "Field",
    "FragmentBuilder",
    "MemoryReplay",
    "MirrorReplay",
    "Prioritized",
    "Relabeler",
    "ReplayProducer",
    "ReplaySchema",
    "ReplayStore",
    "Sampling",
    "SequenceBatch",
    "Transitions",
    "Uniform",
    "connect",
    "patiently",
]
