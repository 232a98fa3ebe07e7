"""What is refused of observations and masks, and what the refusal says."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from services.common.errors import InvalidInput
from services.common.spec import DictSpace, Distribution, ObservationSpace, PolicySpec

PAIR = ObservationSpace(dtype="float32", shape=(2,))
SPEC = PolicySpec(
    environment="Probe-v0", observation=PAIR, actions=3, distribution=Distribution.Q_VALUES
)


def test_a_fitting_batch_passes() -> None:
    PAIR.check(np.zeros((3, 2), np.float32))


def test_size_counts_elements() -> None:
    assert ObservationSpace(dtype="uint8", shape=(84, 84, 3)).size == 84 * 84 * 3
    assert ObservationSpace(dtype="float32", shape=()).size == 1


def test_another_shape_is_refused_with_both() -> None:
    with pytest.raises(InvalidInput, match=r"has shape \[3\], expected \[2\] of float32"):
        PAIR.check(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_with_their_place(value: float) -> None:
    batch = np.zeros((3, 2), np.float32)
    batch[1, 1] = value
    with pytest.raises(InvalidInput, match=rf"observation 1 holds {value} at \[1\]"):
        PAIR.check(batch)


def test_the_place_within_an_image_is_named() -> None:
    image = ObservationSpace(dtype="float32", shape=(2, 2))
    batch = np.zeros((1, 2, 2), np.float32)
    batch[0, 1, 0] = np.nan
    with pytest.raises(InvalidInput, match=r"observation 0 holds nan at \[1, 0\]"):
        image.check(batch)


def test_a_scalar_observation_can_be_checked() -> None:
    scalar = ObservationSpace(dtype="float32", shape=())
    scalar.check(np.zeros(2, np.float32))
    with pytest.raises(InvalidInput, match="observation 1 holds nan"):
        scalar.check(np.array([0, np.nan], np.float32))


def test_whole_numbers_are_always_finite() -> None:
    ObservationSpace(dtype="uint8", shape=(1,)).check(np.array([[255]], np.uint8))


@pytest.mark.parametrize("number", [-1, 3, 2**40])
def test_numbers_of_states_beyond_the_last_are_refused(number: int) -> None:
    states = ObservationSpace(dtype="int64", shape=(), n=3)
    states.check(np.array([0, 2]))
    with pytest.raises(InvalidInput, match=f"observation 1 is {number}, .* from 0 to 2"):
        states.check(np.array([1, number]))


def test_masks_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidInput, match="has 2 flags, expected one for each of 3 actions"):
        SPEC.check_masks(np.ones((1, 2), bool))


def test_a_mask_that_allows_nothing_is_refused_with_its_row() -> None:
    masks = np.array([[True, False, False], [False, False, False]])
    with pytest.raises(InvalidInput, match="action mask 1 allows no action"):
        SPEC.check_masks(masks)


def test_one_allowed_action_is_enough() -> None:
    SPEC.check_masks(np.eye(3, dtype=bool))


@pytest.mark.parametrize("change", [{"dtype": "float16"}, {"shape": (0,)}, {"colour": "red"}])
def test_a_space_that_cannot_be_is_not_made(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ObservationSpace.model_validate({"dtype": "float32", "shape": (2,), **change})


def test_a_spec_survives_json() -> None:
    assert PolicySpec.model_validate_json(SPEC.model_dump_json()) == SPEC


PARTS = DictSpace(
    parts={
        "image": ObservationSpace(dtype="uint8", shape=(2, 2)),
        "state": ObservationSpace(dtype="int64", shape=(), n=3),
    }
)


def test_parts_are_one_array_with_a_field_each() -> None:
    batch = np.zeros(5, PARTS.row)
    PARTS.check(batch)
    assert PARTS.size == 5
    columns = PARTS.columns(batch[1:3])
    assert {name: column.shape for name, column in columns.items()} == {
        "observation.image": (2, 2, 2),
        "observation.state": (2,),
    }
    assert all(column.flags.c_contiguous for column in columns.values())


def test_a_part_that_does_not_fit_is_named() -> None:
    batch = np.zeros(2, PARTS.row)
    batch["state"] = [0, 3]
    with pytest.raises(InvalidInput, match="part 'state': observation 1 is 3"):
        PARTS.check(batch)
    with pytest.raises(InvalidInput, match=r"has the parts \['image'\], expected"):
        PARTS.check(batch[["image"]])


def test_a_spec_of_parts_is_written_and_read() -> None:
    spec = SPEC.model_copy(update={"observation": PARTS, "environment_kwargs": {"size": 3}})
    read = PolicySpec.model_validate_json(spec.model_dump_json())
    assert read == spec
    assert list(read.observation.inputs) == ["observation.image", "observation.state"]
    assert PolicySpec.model_validate_json(SPEC.model_dump_json()) == SPEC


@pytest.mark.parametrize("name", ["", "a.b", "a b", "-a"])
def test_names_of_parts_can_be_those_of_inputs(name: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        DictSpace(parts={name: PAIR})
