"""What a row is made of, how it lies in bytes, and what comes back from JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from services.common.errors import InvalidInput
from services.common.replay.schema import Field, ReplaySchema, leaf_names

OBSERVED = Field("observation", "uint8")
ACTION = Field("action", "int32")
NESTED = ReplaySchema(
    (
        Field("observation.camera", "uint8", (4, 3), stack=3, pad="zero"),
        Field("observation.arm.0", "float32", (2,)),
        Field("observation.arm.1", "float64"),
        Field("action_mask", "bool", (5,)),
        Field("hidden", "float32", (7,)),
    ),
    Field("action", "float32", (2,)),
    {"camera": None, "arm": (None, None)},
)


def test_cart_pole_rows_are_48_bytes() -> None:
    schema = ReplaySchema.transitions((4,), "float32")
    assert schema.row_bytes == 48
    assert schema.history == 0


@pytest.mark.parametrize("schema", [NESTED, ReplaySchema.transitions((3, 5), "uint8", stack=4)])
def test_every_column_is_aligned_so_that_torch_takes_it_as_it_lies(schema: ReplaySchema) -> None:
    for dtype, offset in schema.dtype.fields.values():
        base = dtype.base.itemsize
        assert offset % base == 0
        assert schema.row_bytes % base == 0


@pytest.mark.parametrize("schema", [NESTED, ReplaySchema.transitions((4,), "float32")])
def test_json_brings_a_schema_back(schema: ReplaySchema) -> None:
    again = ReplaySchema.from_json(schema.to_json())
    assert again == schema
    assert again.dtype == schema.dtype
    assert again.structure == schema.structure


def test_fields_are_told_apart() -> None:
    assert [f.name for f in NESTED.leaves] == list(leaf_names(NESTED.structure))
    assert [f.name for f in NESTED.extras] == ["action_mask", "hidden"]
    assert NESTED.history == 2


def test_observations_go_in_and_come_out_as_they_are_nested() -> None:
    rows = NESTED.empty(2)
    camera = np.arange(2 * 12, dtype=np.uint8).reshape(2, 4, 3)
    arm = (np.ones((2, 2), np.float32), np.array([3.0, 4.0]))
    NESTED.set_observation(rows, {"arm": arm, "camera": camera})
    out = NESTED.observation(lambda name: rows[name])
    assert list(out) == ["camera", "arm"]
    np.testing.assert_array_equal(out["camera"], camera)
    np.testing.assert_array_equal(out["arm"][0], arm[0])
    np.testing.assert_array_equal(out["arm"][1], arm[1])


def test_of_a_stack_the_newest_frame_is_kept() -> None:
    schema = ReplaySchema.transitions((2,), "uint8", stack=3)
    rows = schema.empty(1)
    schema.set_observation(rows, np.array([[[1, 2], [3, 4], [5, 6]]], np.uint8))
    assert rows["observation"].tolist() == [[5, 6]]
    schema.set_observation(rows, np.array([[7, 8]], np.uint8))
    assert rows["observation"].tolist() == [[7, 8]]


def test_rows_survive_packing() -> None:
    rows = NESTED.empty(3)
    rows["step"], rows["hidden"], rows["action_mask"] = [1, 2, 3], 0.5, True
    data = NESTED.pack(rows)
    assert len(data) == 3 * NESTED.row_bytes
    again = NESTED.unpack(data)
    np.testing.assert_array_equal(again, rows)
    assert not again.flags.writeable


def test_rows_of_another_schema_are_refused() -> None:
    with pytest.raises(InvalidInput, match="expected"):
        NESTED.pack(ReplaySchema.transitions((4,), "float32").empty(1))


def test_another_version_is_refused() -> None:
    stored = json.loads(NESTED.to_json()) | {"version": 1}
    with pytest.raises(InvalidInput, match="schema version 1, expected 2"):
        ReplaySchema.from_json(json.dumps(stored))


@pytest.mark.parametrize(
    ("state", "action", "structure", "why"),
    [
        ((OBSERVED,), ACTION, {"a": None}, "expected the leaves"),
        ((Field("mask", "bool"), OBSERVED), ACTION, None, "expected the lea"),
        ((), ACTION, {}, "expected the leaves"),
        ((OBSERVED, Field("reward", "float32")), ACTION, None, "take one of"),
        (
            (Field("observation", "uint8"), Field("x", "bool"), Field("x", "bool")),
            ACTION,
            None,
            "r",
        ),
        ((OBSERVED,), Field("act", "int32"), None, "named 'action'"),
        ((OBSERVED,), Field("action", "int32", stack=2), None, "without a st"),
    ],
)
def test_what_makes_no_row_is_refused(state, action, structure, why) -> None:
    with pytest.raises(InvalidInput, match=why):
        ReplaySchema(state, action, structure)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("observation", "object"), "no numeric type"),
        (("observation", "nonsense"), "no numeric type"),
        (("", "uint8"), "must match"),
        (("a..b", "uint8"), "must match"),
        (("a", "uint8", (), 0), "stack 0"),
        (("a", "uint8", (), 2, "last"), "'last'"),
    ],
)
def test_what_makes_no_field_is_refused(arguments, why) -> None:
    with pytest.raises(InvalidInput, match=why):
        Field(*arguments)
