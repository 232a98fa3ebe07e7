"""Observations and masks from the wire, checked against a policy's spec."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from services.common.action_space import Box
from services.common.errors import InvalidInput
from services.common.spec import DictSpace, ObservationSpace, PolicySpec
from services.common.wire import DTYPES, decode_array
from services.inference.distribution import Masks
from services.inference.runner import Observations
from tutelage.v1 import array_pb2, policy_pb2

FLOAT32_MAX = float(np.finfo(np.float32).max)


class ObservationDecoder:
    """Decodes observations of one space; what a space makes of them is worked out once.

    The common cases, a plain vector of float32 and raw bytes of the right size, are told
    apart by a few cheap checks. Whatever fails one of them goes the thorough way, which
    accepts it or says what is wrong.
    """

    def __init__(self, space: ObservationSpace) -> None:
        self._space = space
        self._size = space.size
        self._shape = list(space.shape)
        self._row, self._rows_shape = (1, *space.shape), (-1, *space.shape)
        self._dtype = np.dtype(space.dtype)
        self._bytes = self._size * self._dtype.itemsize
        self._is_float = self._dtype.kind == "f"
        self._is_bounded = space.n is not None
        own = next(number for number, dtype in DTYPES.items() if dtype == self._dtype)
        self._dtypes = (array_pb2.DTYPE_UNSPECIFIED, own)

    def one(self, message: array_pb2.Array) -> Observations:
        """An observation as a batch of one, `(1, *shape)`.

        Raises:
            InvalidInput: with what was expected.
        """
        raw = message.raw
        row = self._from_raw(message, raw) if raw else self._from_values(message)
        return self._thoroughly(message, batched=False) if row is None else row

    def together(self, messages: Sequence[array_pb2.Array]) -> Observations | None:
        """Observations of several messages `(n, 1, *shape)`, where all are plain raw bytes.

        What it costs for each is then a few checks. None: look at them one by one.
        """
        if self._is_bounded:
            return None
        raws = []
        for message in messages:
            raw = message.raw
            if not self._is_plain(message, len(raw)):
                return None
            raws.append(raw)
        rows = self._rows(b"".join(raws))
        return None if rows is None else rows[:, None]

    def alike(self, message: array_pb2.Array, raw: bytes, count: int) -> Observations | None:
        """Observations `(count, *shape)` of messages that are like one, but for their raw bytes.

        None: look at them one by one.

        Args:
            message: what they are like, without raw bytes.
            raw: those of all of them, one after another.
        """
        if self._is_bounded or not self._is_plain(message, len(raw) / count):
            return None
        return self._rows(raw)

    def many(self, message: array_pb2.Array) -> Observations:
        """A batch of observations, `(n, *shape)` with n ≥ 1.

        Raises:
            InvalidInput: with what was expected and the first row that does not fit.
        """
        rows = None if self._is_bounded else self._many_from_raw(message)
        return self._thoroughly(message, batched=True) if rows is None else rows

    def _many_from_raw(self, message: array_pb2.Array) -> Observations | None:
        raw, shape = message.raw, message.shape[:]
        is_plain = (
            raw
            and shape
            and shape[1:] == self._shape
            and len(raw) == shape[0] * self._bytes
            and message.dtype in self._dtypes
            and not message.values
        )
        return self._rows(raw) if is_plain else None

    def _from_values(self, message: array_pb2.Array) -> Observations | None:
        values = message.values[:]
        if len(values) != self._size or self._dtype != np.float32:
            return None
        # The sum is NaN when one of them is; the bounds keep what float32 cannot hold out.
        if not (
            math.isfinite(sum(values))
            and max(values) <= FLOAT32_MAX
            and min(values) >= -FLOAT32_MAX
            and self._has_own_shape(message)
        ):
            return None
        return np.array(values, dtype=np.float32).reshape(self._row)

    def _from_raw(self, message: array_pb2.Array, raw: bytes) -> Observations | None:
        if self._is_bounded or not self._is_plain(message, len(raw)):
            return None
        return self._rows(raw)

    def _rows(self, raw: bytes) -> Observations | None:
        rows: Observations = np.frombuffer(raw, dtype=self._dtype)
        # A finite sum of squares means finite elements; an infinite one proves nothing.
        if self._is_float and not math.isfinite(rows.dot(rows)):
            return None
        return rows.reshape(self._rows_shape)

    def _is_plain(self, message: array_pb2.Array, raw_bytes: float) -> bool:
        return (
            raw_bytes == self._bytes
            and message.dtype in self._dtypes
            and not message.values
            and self._has_own_shape(message)
        )

    def _has_own_shape(self, message: array_pb2.Array) -> bool:
        shape = message.shape[:]
        return not shape or shape == self._shape

    def _thoroughly(self, message: array_pb2.Array, *, batched: bool) -> Observations:
        observations = decode_array(message, self._space, batched=batched)
        self._space.check(observations)
        return observations


class DictDecoder:
    """Decodes observations of several parts, each as an observation of its own."""

    def __init__(self, space: DictSpace) -> None:
        self._space, self._row = space, space.row
        self._parts = {key: ObservationDecoder(part) for key, part in space.parts.items()}

    def one(self, messages: Mapping[str, array_pb2.Array]) -> Observations:
        """An observation as a batch of one, `(1,)`.

        Raises:
            InvalidInput: with what was expected, naming the part.
        """
        return self._together(messages, batched=False)

    def many(self, messages: Mapping[str, array_pb2.Array]) -> Observations:
        """A batch of observations, `(n,)` with n ≥ 1.

        Raises:
            InvalidInput: naming the part that does not fit.
        """
        return self._together(messages, batched=True)

    def _together(self, messages: Mapping[str, array_pb2.Array], *, batched: bool) -> Observations:
        self._space.check_parts(messages)
        decoded = {key: self._part(key, messages[key], batched) for key in self._parts}
        counts = {key: len(part) for key, part in decoded.items()}
        if len({*counts.values()}) > 1:
            raise InvalidInput(f"the parts hold different numbers of observations: {counts}")
        together = np.empty(next(iter(counts.values())), self._row)
        for key, part in decoded.items():
            together[key] = part
        return together

    def _part(self, key: str, message: array_pb2.Array, batched: bool) -> Observations:
        decoder = self._parts[key]
        try:
            return decoder.many(message) if batched else decoder.one(message)
        except InvalidInput as error:
            raise InvalidInput(f"part {key!r}: {error}") from None


class Decoder:
    """Decodes what a request holds for a policy, which observes an array or a Dict of them."""

    def __init__(self, space: ObservationSpace | DictSpace) -> None:
        self._space = space
        self._array = ObservationDecoder(space) if isinstance(space, ObservationSpace) else None
        self._dict = DictDecoder(space) if isinstance(space, DictSpace) else None

    def one(self, request: policy_pb2.ActRequest) -> Observations:
        """The request's observation as a batch of one.

        Raises:
            InvalidInput: with what was expected.
        """
        if self._array is not None and not request.observation_parts:
            return self._array.one(request.observation)
        return self._of_parts(request.HasField("observation")).one(request.observation_parts)

    def ones(
        self, requests: Sequence[policy_pb2.ActRequest]
    ) -> Sequence[Observations | InvalidInput]:
        """As `one` of each request, with what is wrong in its place."""
        together = None
        if self._array is not None and not any(r.observation_parts for r in requests):
            together = self._array.together([request.observation for request in requests])
        return [self._one_or_error(r) for r in requests] if together is None else [*together]

    def alike(self, request: policy_pb2.ActRequest, raw: bytes, count: int) -> Observations | None:
        """Observations `(count, …)` of requests that are like one, but for their raw bytes; see
        ObservationDecoder."""
        if self._array is None:
            return None
        return self._array.alike(request.observation, raw, count)

    def _one_or_error(self, request: policy_pb2.ActRequest) -> Observations | InvalidInput:
        try:
            return self.one(request)
        except InvalidInput as error:
            return error

    def many(self, request: policy_pb2.ActBatchRequest) -> Observations:
        """The request's observations.

        Raises:
            InvalidInput: with what was expected and the first row that does not fit.
        """
        if self._array is not None and not request.observation_parts:
            return self._array.many(request.observations)
        return self._of_parts(request.HasField("observations")).many(request.observation_parts)

    def _of_parts(self, has_array: bool) -> DictDecoder:
        if self._dict is None:
            raise InvalidInput(
                f"the observation is given in parts, expected one array, {self._space}"
            )
        if has_array:
            raise InvalidInput(f"the observation is one array, expected parts: {self._space}")
        return self._dict


def decode_masks(flags: Sequence[bool], rows: int, spec: PolicySpec) -> Masks | None:
    """Masks `(rows, actions)`, or None when there are no flags and all is allowed.

    Raises:
        InvalidInput: when there are too many or too few, or a row allows nothing.
    """
    if not flags:
        return None
    if isinstance(spec.action, Box):
        raise InvalidInput(
            f"an action mask means nothing for actions in {spec.action}; leave it out"
        )
    if len(flags) != rows * spec.actions:
        of_rows = "" if rows == 1 else f" × {rows} observations"
        raise InvalidInput(
            f"action mask has {len(flags)} flags, expected {rows * spec.actions}: "
            f"one for each of {spec.actions} actions{of_rows}"
        )
    masks = np.array(flags, dtype=np.bool_).reshape(rows, spec.actions)
    spec.check_masks(masks)
    return masks
