"""Everything the platform can say no with: the tree that clients know, see `tutelage.errors`.

Services raise these, `services.common.server.errors` turns them into gRPC statuses, and the
client turns those back into the same classes.
"""

from tutelage.errors import (
    AlreadyExists,
    DataCorrupted,
    InvalidConfig,
    InvalidInput,
    ModelRejected,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ReplayBackpressure,
    ReplayDataLost,
    ReplayUnavailable,
    ResourceExhausted,
    StorageFull,
    TutelageError,
    Unauthenticated,
    Unavailable,
)

__all__ = [
    "AlreadyExists",
    "DataCorrupted",
    "InvalidConfig",
    "InvalidInput",
    "ModelRejected",
    "NotFound",
    "PermissionDenied",
    "PreconditionFailed",
    "ReplayBackpressure",
    "ReplayDataLost",
    "ReplayUnavailable",
    "ResourceExhausted",
    "StorageFull",
    "TutelageError",
    "Unauthenticated",
    "Unavailable",
]
