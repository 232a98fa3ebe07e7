"""Between the wire's messages and the platform's own types."""

from __future__ import annotations

import json
import math
from datetime import datetime

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.action_space import ActionSpace, Box, Discrete, MultiDiscrete
from services.common.errors import InvalidInput
from services.common.spec import DictSpace, Distribution, ObservationSpace, PolicySpec
from tutelage.v1 import array_pb2, policy_pb2

DTYPES: dict[int, np.dtype[np.generic]] = {
    array_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    array_pb2.DTYPE_FLOAT64: np.dtype("<f8"),
    array_pb2.DTYPE_UINT8: np.dtype("u1"),
    array_pb2.DTYPE_INT32: np.dtype("<i4"),
    array_pb2.DTYPE_INT64: np.dtype("<i8"),
    array_pb2.DTYPE_BOOL: np.dtype("?"),
}
_WIRE_DTYPE = {dtype: number for number, dtype in DTYPES.items()}
_DISTRIBUTIONS = {
    Distribution.Q_VALUES: policy_pb2.DISTRIBUTION_Q_VALUES,
    Distribution.LOGITS: policy_pb2.DISTRIBUTION_LOGITS,
    Distribution.GAUSSIAN: policy_pb2.DISTRIBUTION_GAUSSIAN,
    Distribution.TANH_GAUSSIAN: policy_pb2.DISTRIBUTION_TANH_GAUSSIAN,
    Distribution.DETERMINISTIC: policy_pb2.DISTRIBUTION_DETERMINISTIC,
}


def decode_array(
    message: array_pb2.Array, space: ObservationSpace, *, batched: bool
) -> npt.NDArray[np.generic]:
    """An observation, or a batch of them, as an array of the space's element type.

    Returns:
        Shape `(n, *space.shape)`; n is 1 unless `batched`.

    Raises:
        InvalidInput: when shape, type or byte count is not what the space expects.
    """
    flat = _elements(message, space)
    shape = tuple(message.shape)
    if not shape:
        if batched and space.size and flat.size % space.size == 0:
            shape = (flat.size // space.size, *space.shape)
        else:
            shape = space.shape
    expected = f"{['n', *space.shape] if batched else list(space.shape)} of {space.dtype}"
    if math.prod(shape) != flat.size or min(shape, default=1) < 0:
        raise InvalidInput(
            f"observation has {flat.size} numbers, which do not fill its shape {list(shape)}; "
            f"expected {expected}"
        )
    if len(shape) != len(space.shape) + batched or shape[int(batched) :] != space.shape:
        raise InvalidInput(f"observation has shape {list(shape)}, expected {expected}")
    if batched and shape[0] == 0:
        raise InvalidInput(f"the batch is empty, expected {expected} with n ≥ 1")
    return flat.reshape(shape if batched else (1, *shape))


def _elements(message: array_pb2.Array, space: ObservationSpace) -> npt.NDArray[np.generic]:
    wanted = np.dtype(space.dtype)
    if bool(message.values) == bool(message.raw):
        raise InvalidInput(
            "observation needs either `values` (numbers) or `raw` (bytes), "
            f"{'not both' if message.raw else 'and has neither'}; "
            f"expected {list(space.shape)} of {space.dtype}"
        )
    if message.values:
        return _from_numbers(np.array(message.values, dtype=np.float64), wanted)
    given = DTYPES.get(message.dtype, wanted) if message.dtype else wanted
    if message.dtype and message.dtype not in DTYPES:
        raise InvalidInput(f"observation has the unknown dtype {message.dtype}")
    if given != wanted:
        raise InvalidInput(f"observation has dtype {given.name}, expected {wanted.name}")
    if len(message.raw) % given.itemsize:
        raise InvalidInput(
            f"observation has {len(message.raw)} raw bytes, expected a multiple of "
            f"{given.itemsize}, the size of a {given.name}"
        )
    return np.frombuffer(message.raw, dtype=given)


def _from_numbers(
    numbers: npt.NDArray[np.float64], wanted: np.dtype[np.generic]
) -> npt.NDArray[np.generic]:
    if np.issubdtype(wanted, np.integer):
        limits = np.iinfo(wanted)  # type: ignore[type-var]
        # The largest int64 is no float64, but the number after it is: compare with that.
        end = limits.max + 1.0
        fits = (numbers >= limits.min) & (numbers < end) & (numbers == np.floor(numbers))
        if not fits.all():
            raise InvalidInput(
                f"observation holds {numbers[~fits][0]}, expected whole numbers of "
                f"{wanted.name}, {limits.min} to {limits.max}"
            )
    with np.errstate(over="ignore"):  # what overflows float32 is infinite, and refused as such
        return numbers.astype(wanted)


def encode_array(array: npt.NDArray[np.generic]) -> array_pb2.Array:
    """An array as raw bytes with its type and shape."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array_pb2.Array(
        raw=np.ascontiguousarray(little).tobytes(),
        dtype=_WIRE_DTYPE[np.dtype(little.dtype)],  # type: ignore[arg-type]
        shape=array.shape,
    )


def encode_spec(spec: PolicySpec) -> policy_pb2.PolicySpec:
    """A policy's spec as its message."""
    return policy_pb2.PolicySpec(
        observation=_encode_observation_space(spec.observation),
        action=_encode_action_space(spec.action),
        distribution=_DISTRIBUTIONS[spec.distribution],
        environment=spec.environment,
        environment_kwargs=json.dumps(spec.environment_kwargs) if spec.environment_kwargs else "",
        masked=spec.masked,
        valued=spec.valued,
        state=[
            policy_pb2.StatePart(input=part.input, output=part.output, shape=part.shape)
            for part in spec.state
        ],
    )


def _encode_observation_space(space: ObservationSpace | DictSpace) -> policy_pb2.ObservationSpace:
    if isinstance(space, DictSpace):
        parts = {key: _encode_observation_space(part) for key, part in space.parts.items()}
        return policy_pb2.ObservationSpace(parts=parts)
    return policy_pb2.ObservationSpace(
        dtype=_WIRE_DTYPE[np.dtype(space.dtype)],  # type: ignore[arg-type]
        shape=space.shape,
        n=space.n or 0,
    )


def _encode_action_space(space: ActionSpace) -> policy_pb2.ActionSpace:
    match space:
        case Discrete():
            kind = policy_pb2.ACTION_KIND_DISCRETE
            return policy_pb2.ActionSpace(kind=kind, n=space.n, names=space.names)
        case MultiDiscrete():
            kind = policy_pb2.ACTION_KIND_MULTI_DISCRETE
            return policy_pb2.ActionSpace(kind=kind, nvec=space.nvec)
        case Box():
            return policy_pb2.ActionSpace(
                kind=policy_pb2.ACTION_KIND_BOX,
                dtype=_WIRE_DTYPE[np.dtype(space.dtype)],  # type: ignore[arg-type]
                shape=space.shape,
                low=space.lower,
                high=space.upper,
            )


def encode_elements(array: npt.NDArray[np.generic]) -> array_pb2.Array:
    """An array as numbers a person can read, with its type and shape."""
    return array_pb2.Array(
        values=array.ravel().tolist(),
        dtype=_WIRE_DTYPE[np.dtype(array.dtype)],  # type: ignore[arg-type]
        shape=array.shape,
    )


def timestamp(moment: datetime) -> Timestamp:
    """A moment as the wire has it."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message
