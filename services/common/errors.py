"""Everything the platform can say no with.

    TutelageError
    ├── InvalidInput            what was sent does not fit; says what was expected
    │   └── InvalidConfig       a setting, preset or override that cannot be run
    ├── NotFound                no such policy, version, run, pair
    ├── AlreadyExists           it is there, and says something else
    ├── PreconditionFailed      possible, but not in the present state
    ├── ResourceExhausted       a queue, quota or disk is full
    │   └── StorageFull
    ├── Unavailable             a peer does not answer; trying again can help
    │   └── ReplayUnavailable
    └── DataCorrupted           stored bytes are not what was stored
        ├── ModelRejected       a model file that must not be served
        └── ReplayDataLost      the replay lost rows it had acknowledged

A message says what was wrong, what was expected, and what to do. How each becomes a
gRPC status is decided in one place, `services.common.server.errors`.
"""


class TutelageError(Exception):
    """Root of the tree; the message is written for the person who reads it."""


class InvalidInput(TutelageError):
    """What was sent does not fit; the message says what was expected."""


class InvalidConfig(InvalidInput):
    """A setting, preset or override that cannot be run."""


class NotFound(TutelageError):
    """There is no such thing."""


class AlreadyExists(TutelageError):
    """It exists already and says something else."""


class PreconditionFailed(TutelageError):
    """Possible in general, but not in the present state."""


class ResourceExhausted(TutelageError):
    """A queue, a quota or a disk is full."""


class StorageFull(ResourceExhausted):
    """The disk, or the replay's memory, is full."""


class Unavailable(TutelageError):
    """A peer does not answer; trying again can help."""


class ReplayUnavailable(Unavailable):
    """The replay's Redis does not answer, or is still loading."""


class DataCorrupted(TutelageError):
    """Stored bytes are not what was stored."""


class ModelRejected(DataCorrupted):
    """A model file that must not be served: wrong digest, not ONNX, or not as its spec says."""


class ReplayDataLost(DataCorrupted):
    """The replay lost rows that it had acknowledged, more than could be sent again."""
