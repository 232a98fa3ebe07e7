"""Everything a call can fail with.

    TutelageError
    ├── InvalidInput            what was sent does not fit; says what was expected
    │   └── InvalidConfig       a setting, preset or override that cannot be run
    ├── NotFound                no such policy, version, run, pair
    ├── AlreadyExists           it is there, and says something else
    ├── PreconditionFailed      possible, but not in the present state
    ├── ResourceExhausted       a queue, quota, disk or message size is at its limit
    │   ├── StorageFull
    │   └── ReplayBackpressure  learners have not caught up with producers in time
    ├── Unauthenticated         no token was sent, or one that is not known
    ├── PermissionDenied        the token's roles do not allow the call
    ├── Unavailable             the service does not answer; trying again can help
    │   └── ReplayUnavailable
    ├── DataCorrupted           stored bytes are not what was stored
    │   ├── ModelRejected       a model file that must not be served
    │   └── ReplayDataLost
    ├── DeadlineExceeded        no answer within the time given
    ├── Cancelled               the call was cancelled here
    └── Internal                the service failed; its log has the details

The same names as the services use; those at the end arise only on a call's way.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "tutelage"
_DETAILS = "grpc-status-details-bin"


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
    """A queue, a quota, a disk or a message's size is at its limit."""


class StorageFull(ResourceExhausted):
    """The disk, or the replay's memory, is full."""


class ReplayBackpressure(ResourceExhausted):
    """Learners have not sampled enough for more to be appended, and did not within the time."""


class Unauthenticated(TutelageError):
    """The call needs a token, and had none or one that is not known."""


class PermissionDenied(TutelageError):
    """The token's roles do not allow the call."""


class Unavailable(TutelageError):
    """The service does not answer; trying again can help."""


class ReplayUnavailable(Unavailable):
    """The replay's Redis does not answer, or is still loading."""


class DataCorrupted(TutelageError):
    """Stored bytes are not what was stored."""


class ModelRejected(DataCorrupted):
    """A model file that must not be served: wrong digest, not ONNX, or not as its spec says."""


class ReplayDataLost(DataCorrupted):
    """The replay lost rows that it had acknowledged."""


class DeadlineExceeded(TutelageError):
    """No answer came within the time given."""


class Cancelled(TutelageError):
    """The call was cancelled on this side."""


class Internal(TutelageError):
    """The service failed in a way it did not expect; its log has the details."""


_BY_REASON: dict[str, type[TutelageError]] = {
    kind.__name__: kind
    for kind in (
        InvalidInput,
        InvalidConfig,
        NotFound,
        AlreadyExists,
        PreconditionFailed,
        ResourceExhausted,
        StorageFull,
        ReplayBackpressure,
        Unauthenticated,
        PermissionDenied,
        Unavailable,
        ReplayUnavailable,
        DataCorrupted,
        ModelRejected,
        ReplayDataLost,
    )
}
_BY_CODE: dict[grpc.StatusCode, type[TutelageError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: DataCorrupted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}


def from_rpc_error(error: grpc.RpcError) -> TutelageError:
    """The typed error of a failed call: by the service's own word for it, else by status."""
    kind = _BY_REASON.get(_reason(error)) or _BY_CODE.get(error.code(), Internal)
    return kind(error.details() or error.code().name)


def _reason(error: grpc.RpcError) -> str:
    metadata: Any = error.trailing_metadata() or ()
    status = next((value for key, value in metadata if key == _DETAILS), b"")
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(status).details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            return str(info.reason)
    return ""
