"""How far decisions are apart: numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_policies import CARTPOLE

from services.common.action_space import Box, MultiDiscrete
from services.common.spec import Distribution
from services.inference.comparing import compare

LOGITS = CARTPOLE.model_copy(update={"distribution": Distribution.LOGITS})
BOX = Box(dtype="float32", shape=(1,), low=(-2,), high=(2,))
GAUSSIAN = CARTPOLE.model_copy(update={"action": BOX, "distribution": Distribution.GAUSSIAN})


def of(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_equal_distributions_are_not_apart() -> None:
    apart = compare(LOGITS, of([1, 2], [3, 0]), LOGITS, of([11, 12], [3, 0]))
    assert apart.differ.tolist() == [False, False]
    assert apart.divergence == pytest.approx([0, 0])


def test_the_divergence_of_choices() -> None:
    ours, theirs = of(np.log([0.75, 0.25])), of(np.log([0.25, 0.75]))
    apart = compare(LOGITS, ours, LOGITS, theirs)
    assert apart.differ.tolist() == [True]
    assert apart.divergence == pytest.approx([0.5 * np.log(3)])


def test_what_a_mask_forbids_counts_nothing() -> None:
    masks = np.array([[True, False]])
    apart = compare(LOGITS, of([0, 9]), LOGITS, of([0, -9]), masks)
    assert apart.differ.tolist() == [False]
    assert apart.divergence.tolist() == [0]


def test_components_add_up() -> None:
    spec = LOGITS.model_copy(update={"action": MultiDiscrete(nvec=(2, 2))})
    ours = of([*np.log([0.75, 0.25]), 0, 0])
    theirs = of([*np.log([0.25, 0.75]), 0, 0])
    apart = compare(spec, ours, spec, theirs)
    assert apart.differ.tolist() == [True]
    assert apart.divergence == pytest.approx([0.5 * np.log(3)])


def test_the_divergence_of_gaussians() -> None:
    apart = compare(GAUSSIAN, of([0, 0], [0, 0]), GAUSSIAN, of([1, 0], [0.05, np.log(2)]))
    assert apart.differ.tolist() == [True, False]  # of a half-width of 2: by half, and by less
    wide = 0.25 * (1 + 0.05**2) / 2 - 0.5 + np.log(2)
    assert apart.divergence == pytest.approx([0.5, wide], abs=1e-6)


def test_deterministic_actions_have_no_divergence() -> None:
    spec = GAUSSIAN.model_copy(update={"distribution": Distribution.DETERMINISTIC})
    apart = compare(spec, of([0.0], [1.0]), spec, of([0.1], [1.5]))
    assert apart.differ.tolist() == [False, True]
    assert apart.divergence.size == 0
