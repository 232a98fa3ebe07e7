"""Arrays on the wire: every type there and back, and every way in which they can be wrong."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from services.common.errors import InvalidInput
from services.common.spec import DictSpace, Distribution, ObservationSpace, PolicySpec
from services.common.wire import DTYPES, decode_array, encode_array, encode_spec, timestamp
from tutelage.v1 import array_pb2, policy_pb2

PAIR = ObservationSpace(dtype="float32", shape=(2,))
BYTES = ObservationSpace(dtype="uint8", shape=(2, 2))
LONGS = ObservationSpace(dtype="int64", shape=(1,))
SCALAR = ObservationSpace(dtype="float64", shape=())


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32", "int64"])
def test_raw_bytes_of_each_type_come_back(dtype: str) -> None:
    array = np.array([[1, 2, 250], [4, 5, 6]], dtype)
    space = ObservationSpace.model_validate({"dtype": dtype, "shape": (3,)})
    decoded = decode_array(encode_array(array), space, batched=True)
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32", "int64"])
def test_plain_numbers_become_the_spaces_type(dtype: str) -> None:
    space = ObservationSpace.model_validate({"dtype": dtype, "shape": (2,)})
    decoded = decode_array(array_pb2.Array(values=[1, 250]), space, batched=False)
    assert decoded.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(decoded, [[1, 250]])


@pytest.mark.parametrize("number", DTYPES)
def test_what_is_encoded_says_its_type_and_shape(number: int) -> None:
    message = encode_array(np.zeros((2, 3), DTYPES[number]))
    assert message.dtype == number
    assert list(message.shape) == [2, 3]
    assert len(message.raw) == 6 * DTYPES[number].itemsize


def test_big_endian_and_strided_arrays_are_sent_as_their_values() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    space = ObservationSpace(dtype="float32", shape=(2,))
    np.testing.assert_array_equal(decode_array(encode_array(array), space, batched=True), array)


def test_without_a_shape_an_observation_has_the_spaces() -> None:
    decoded = decode_array(array_pb2.Array(values=[1, 2, 3, 4]), BYTES, batched=False)
    assert decoded.shape == (1, 2, 2)


def test_without_a_shape_a_batch_is_as_long_as_its_numbers_allow() -> None:
    decoded = decode_array(array_pb2.Array(values=range(12)), BYTES, batched=True)
    assert decoded.shape == (3, 2, 2)


def test_a_scalar_observation_needs_no_shape() -> None:
    assert decode_array(array_pb2.Array(values=[0.5]), SCALAR, batched=False).shape == (1,)
    assert decode_array(array_pb2.Array(values=[1, 2]), SCALAR, batched=True).shape == (2,)


def test_a_float_that_overflows_is_left_for_the_space_to_refuse() -> None:
    decoded = decode_array(array_pb2.Array(values=[1e300, 0]), PAIR, batched=False)
    with pytest.raises(InvalidInput, match="observation 0 holds inf"):
        PAIR.check(decoded)


F4 = array_pb2.DTYPE_FLOAT32
WRONG = {
    "nothing": (PAIR, {}, r"has neither; expected \[2\] of float32"),
    "both": (PAIR, {"values": [1, 2], "raw": b"\0" * 8}, "either `values` .* not both"),
    "too few": (PAIR, {"values": [1]}, r"has 1 numbers, .* shape \[2\]; expected \[2\]"),
    "too many": (PAIR, {"values": [1, 2, 3]}, r"has 3 numbers, .* shape \[2\]"),
    "shape not filled": (PAIR, {"values": [1, 2], "shape": [3]}, r"do not fill its shape \[3\]"),
    "negative shape": (PAIR, {"values": [1, 2], "shape": [-1, -2]}, "do not fill its shape"),
    "other shape": (PAIR, {"values": [1, 2], "shape": [2, 1]}, r"has shape \[2, 1\], expected"),
    "a batch where one is wanted": (
        PAIR,
        {"values": [1, 2], "shape": [1, 2]},
        r"has shape \[1, 2\], expected \[2\] of float32",
    ),
    "other type": (
        PAIR,
        {"raw": b"\0" * 16, "dtype": array_pb2.DTYPE_FLOAT64},
        "has dtype float64, expected float32",
    ),
    "bool": (PAIR, {"raw": b"\0" * 8, "dtype": array_pb2.DTYPE_BOOL}, "has dtype bool"),
    "unknown type": (PAIR, {"raw": b"\0" * 8, "dtype": 99}, "unknown dtype 99"),
    "half a number": (PAIR, {"raw": b"\0" * 7}, "has 7 raw bytes, expected a multiple of 4"),
    "too few bytes": (PAIR, {"raw": b"\0" * 4, "dtype": F4}, "has 1 numbers"),
    "a fraction": (BYTES, {"values": [1, 2, 3, 0.5]}, "holds 0.5, expected whole numbers"),
    "below": (BYTES, {"values": [1, 2, 3, -1]}, r"holds -1.0, .* uint8, 0 to 255"),
    "above": (BYTES, {"values": [1, 2, 3, 256]}, "holds 256.0"),
    "no number": (BYTES, {"values": [1, 2, 3, float("nan")]}, "holds nan"),
    "endless": (BYTES, {"values": [1, 2, 3, float("inf")]}, "holds inf"),
    "just above int64": (LONGS, {"values": [2.0**63]}, "expected whole numbers of int64"),
}


@pytest.mark.parametrize(("space", "fields", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_refused(
    space: ObservationSpace, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode_array(array_pb2.Array(**fields), space, batched=False)


WRONG_BATCHES = {
    "rest over": ({"values": [1, 2, 3]}, r"has 3 numbers, .* expected \['n', 2\] of float32"),
    "one where a batch is wanted": ({"values": [1, 2], "shape": [2]}, r"has shape \[2\], expected"),
    "other rows": ({"values": [1, 2, 3], "shape": [1, 3]}, r"has shape \[1, 3\], expected"),
    "empty": ({"shape": [0, 2]}, "has neither"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG_BATCHES.values(), ids=WRONG_BATCHES.keys())
def test_a_batch_that_does_not_fit_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode_array(array_pb2.Array(**fields), PAIR, batched=True)


def test_a_spec_is_sent_whole() -> None:
    spec = PolicySpec(
        environment="CartPole-v1",
        observation=PAIR,
        actions=2,
        action_names=("left", "right"),
        distribution=Distribution.LOGITS,
    )
    message = encode_spec(spec)
    assert message.environment == "CartPole-v1"
    assert list(message.observation.shape) == [2]
    assert message.observation.dtype == array_pb2.DTYPE_FLOAT32
    assert (message.action.n, list(message.action.names)) == (2, ["left", "right"])
    assert message.distribution == policy_pb2.DISTRIBUTION_LOGITS


def test_a_moment_keeps_its_microseconds() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert timestamp(moment).ToDatetime(UTC) == moment


def test_a_spec_of_parts_tells_each_and_how_the_environment_is_made() -> None:
    spec = PolicySpec(
        environment="Probe-v0",
        environment_kwargs={"size": 3},
        observation=DictSpace(parts={"image": BYTES, "number": LONGS}),
        actions=2,
        distribution=Distribution.Q_VALUES,
    )
    message = encode_spec(spec)
    parts = message.observation.parts
    assert {name: (part.dtype, list(part.shape)) for name, part in parts.items()} == {
        "image": (array_pb2.DTYPE_UINT8, [2, 2]),
        "number": (array_pb2.DTYPE_INT64, [1]),
    }
    assert message.observation.dtype == array_pb2.DTYPE_UNSPECIFIED
    assert message.environment_kwargs == '{"size": 3}'
    plain = encode_spec(spec.model_copy(update={"observation": BYTES, "environment_kwargs": {}}))
    assert not plain.observation.parts
    assert plain.environment_kwargs == ""
