"""Tensors of the Open Inference Protocol, checked against a policy's spec."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidInput
from services.common.spec import ACTION, MASK, OBSERVATION, DictSpace, PolicySpec
from services.inference.runner import Observations
from tutelage.oip.v2 import inference_pb2 as pb

Array = npt.NDArray[np.generic]
ELSEWHERE = "shared_memory_region"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One that a policy takes or gives.

    dtype: numpy's name. shape: on the wire, without the batch.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def datatype(self) -> str:
        """The protocol's name of its element type."""
        return DATATYPES[self.dtype][0]

    def __str__(self) -> str:
        return f"{self.datatype} of shape {['n', *self.shape]}"


# Of each element type the protocol's name, and the field in which elements are not raw.
DATATYPES: Mapping[str, tuple[str, str]] = {
    "bool": ("BOOL", "bool_contents"),
    "uint8": ("UINT8", "uint_contents"),
    "int32": ("INT32", "int_contents"),
    "int64": ("INT64", "int64_contents"),
    "float32": ("FP32", "fp32_contents"),
    "float64": ("FP64", "fp64_contents"),
}


def inputs_of(spec: PolicySpec) -> list[Tensor]:
    """What a policy must be given."""
    taken = [_tensor(name, s.dtype, s.shape) for name, s in spec.observation.inputs.items()]
    return [*taken, _mask(spec)] if spec.masked else taken


def outputs_of(spec: PolicySpec) -> list[Tensor]:
    """What it gives: the distribution's parameters and the action."""
    given = [Tensor(name, "float32", (length,)) for name, length in spec.outputs.items()]
    return [*given, _tensor(ACTION, spec.action.dtype, spec.action.shape)]


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, dtype, shape or (1,))  # as Triton has it, which knows no scalars


def _mask(spec: PolicySpec) -> Tensor:
    return Tensor(MASK, "bool", (spec.actions,))


class InputReader:
    """Reads requests to policies with one spec; what they must hold is worked out once."""

    def __init__(self, spec: PolicySpec) -> None:
        self._space = spec.observation
        self._observed = [t for t in inputs_of(spec) if t.name != MASK]
        masks = [_mask(spec)] if spec.actions else []  # which whoever knows of none may leave out
        self._known = {tensor.name: tensor for tensor in (*self._observed, *masks)}

    def read(self, request: pb.ModelInferRequest) -> tuple[Observations, list[bool]]:
        """Observations `(n, *shape)` with n ≥ 1, and their masks' flags one after another.

        Raises:
            InvalidInput: with what was expected.
        """
        arrays = self._arrays(request)
        counts = {name: len(array) for name, array in arrays.items()}
        if len({*counts.values()}) > 1:
            raise InvalidInput(f"the inputs hold different numbers of rows: {counts}")
        mask = arrays.pop(MASK, None)
        observations = self._observations(arrays)
        self._space.check(observations)
        return observations, [] if mask is None else mask.ravel().tolist()

    def _observations(self, arrays: Mapping[str, Array]) -> Observations:
        rows = len(next(iter(arrays.values())))
        if not isinstance(self._space, DictSpace):
            return arrays[OBSERVATION].reshape(rows, *self._space.shape)
        together = np.empty(rows, self._space.row)
        for key, part in self._space.parts.items():
            together[key] = arrays[f"{OBSERVATION}.{key}"].reshape(rows, *part.shape)
        return together

    def _arrays(self, request: pb.ModelInferRequest) -> dict[str, Array]:
        names = [tensor.name for tensor in request.inputs]
        missing = [tensor.name for tensor in self._observed if tensor.name not in names]
        unknown = [name for name in names if name not in self._known]
        if missing or unknown or len(names) > len({*names}):
            raise InvalidInput(
                f"the request has the inputs {names}, expected each of "
                f"{[t.name for t in self._observed]} once; known are {[*self._known]}"
            )
        raws = request.raw_input_contents
        if raws and len(raws) != len(names):
            raise InvalidInput(
                f"raw_input_contents holds {len(raws)} inputs, expected those of {len(names)}"
            )
        raw: Sequence[bytes | None] = raws or [None] * len(names)
        return {
            tensor.name: read_tensor(self._known[tensor.name], tensor, content)
            for tensor, content in zip(request.inputs, raw, strict=True)
        }


def read_tensor(expected: Tensor, tensor: pb.InferInputTensor, raw: bytes | None) -> Array:
    """An input as an array `(n, *shape)` with n ≥ 1.

    Args:
        raw: its elements, if they do not stand in the tensor itself.

    Raises:
        InvalidInput: naming the input, what it is and what was expected.
    """
    if ELSEWHERE in tensor.parameters:
        raise InvalidInput(f"input {tensor.name!r} is in shared memory, expected it in the request")
    if tensor.datatype != expected.datatype:
        raise _misfit(tensor, expected, f"is of datatype {tensor.datatype[:99]!r}")
    shape = list(tensor.shape)
    if shape[1:] != [*expected.shape] or shape[0] < 1:
        raise _misfit(tensor, expected, f"has shape {shape[:99]}")
    flat = _listed(tensor, expected) if raw is None else _from_bytes(tensor, expected, raw)
    if flat.size != math.prod(shape):
        raise _misfit(tensor, expected, f"has {flat.size} elements and the shape {shape}")
    return flat.reshape(shape)


def _from_bytes(tensor: pb.InferInputTensor, expected: Tensor, raw: bytes) -> Array:
    if tensor.contents.ListFields():
        raise _misfit(tensor, expected, "has both contents and raw_input_contents")
    if expected.dtype == "bool":
        flags: Array = np.frombuffer(raw, np.uint8) != 0
        return flags
    dtype = np.dtype(expected.dtype).newbyteorder("<")
    if len(raw) % dtype.itemsize:
        raise _misfit(tensor, expected, f"has {len(raw)} raw bytes, no multiple of its elements'")
    return np.frombuffer(raw, dtype)


def _listed(tensor: pb.InferInputTensor, expected: Tensor) -> Array:
    field = DATATYPES[expected.dtype][1]
    given = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if given != [field]:
        raise _misfit(tensor, expected, f"has {given or 'no contents'}; they belong in {field}")
    values = getattr(tensor.contents, field)[:]
    if expected.dtype == "uint8" and max(values) > np.iinfo(np.uint8).max:
        raise _misfit(tensor, expected, f"holds {max(values)}")
    return np.array(values, dtype=expected.dtype)


def _misfit(tensor: pb.InferInputTensor, expected: Tensor, what: str) -> InvalidInput:
    return InvalidInput(f"input {tensor.name!r} {what}, expected {expected}")
