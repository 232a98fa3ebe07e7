"""How torch computes during a run, and what the process has of it afterwards."""

from __future__ import annotations

import pytest
import torch

from services.trainer.runs.arithmetic import arithmetic


def half_of_the_smallest_normal() -> float:
    return float(torch.tensor([1.2e-38]) * torch.tensor([0.5]))


def test_denormal_numbers_are_zero_while_a_run_is_at_work_and_not_after_it() -> None:
    with arithmetic(deterministic=False):
        assert half_of_the_smallest_normal() == 0.0
    assert half_of_the_smallest_normal() > 0.0


def test_a_run_that_fails_leaves_denormal_numbers_as_they_were() -> None:
    with pytest.raises(ZeroDivisionError), arithmetic(deterministic=False):
        raise ZeroDivisionError
    assert half_of_the_smallest_normal() > 0.0
