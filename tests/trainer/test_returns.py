"""Returns and advantages by hand, with γ = 0.5 and λ = 0.5."""

from __future__ import annotations

import numpy as np
import pytest

from services.trainer.returns import generalised_advantages, q_lambda_returns


def advantages(
    rewards: list[float],
    values: list[float],
    *,
    terminated: list[bool] | None = None,
    truncated: list[bool] | None = None,
    gae_lambda: float = 0.5,
) -> list[float]:
    """Advantages of one environment; `values` has one more, of the state after the last step."""
    steps = len(rewards)
    end = np.array(terminated or [False] * steps)[:, None]
    cut = np.array(truncated or [False] * steps)[:, None]
    column = np.array(values, np.float32)[:, None]
    found = generalised_advantages(
        np.array(rewards, np.float32)[:, None],
        column[:-1],
        column[1:],
        end,
        end | cut,
        0.5,
        gae_lambda,
    )
    assert found.dtype == np.float32
    return found[:, 0].tolist()


def test_without_an_end_the_last_state_is_bootstrapped() -> None:
    # δ₂ = 3 + 0.5·8 - 2 = 5, δ₁ = 2 + 0.5·2 - 1 = 2, δ₀ = 1 + 0.5·1 - 0.5 = 1
    # A₂ = 5, A₁ = 2 + 0.25·5 = 3.25, A₀ = 1 + 0.25·3.25 = 1.8125
    assert advantages([1, 2, 3], [0.5, 1, 2, 8]) == [1.8125, 3.25, 5]


def test_after_a_termination_nothing_is_worth_anything() -> None:
    # δ₁ = 2 - 1 = 1 whatever the next value; A₀ = 1 + 0.25·1; A₂ = 5 as before
    found = advantages([1, 2, 3], [0.5, 1, 2, 8], terminated=[False, True, False])
    assert found == [1.25, 1, 5]


def test_through_a_truncation_the_state_reached_is_bootstrapped_but_no_credit_flows() -> None:
    # δ₁ = 2 + 0.5·2 - 1 = 2 as without an end; but A₁ = δ₁
    found = advantages([1, 2, 3], [0.5, 1, 2, 8], truncated=[False, True, False])
    assert found == [1.5, 2, 5]


def test_a_step_both_terminated_and_truncated_is_terminal() -> None:
    both = [False, True, False]
    found = advantages([1, 2, 3], [0.5, 1, 2, 8], terminated=both, truncated=both)
    assert found == [1.25, 1, 5]


def test_with_lambda_0_it_is_the_td_error() -> None:
    assert advantages([1, 2, 3], [0.5, 1, 2, 8], gae_lambda=0) == [1, 2, 5]


def test_with_lambda_1_it_is_the_return_less_the_value() -> None:
    # G₂ = 3 + 0.5·8 = 7, G₁ = 2 + 0.5·7 = 5.5, G₀ = 1 + 0.5·5.5 = 3.75
    assert advantages([1, 2, 3], [0.5, 1, 2, 8], gae_lambda=1) == [3.25, 4.5, 5]


def test_environments_do_not_touch_one_another() -> None:
    rewards = np.array([[1, 1], [2, 2], [3, 3]], np.float32)
    values = np.array([[0.5, 0.5], [1, 1], [2, 2], [8, 8]], np.float32)
    ended = np.array([[False, False], [False, True], [False, False]])
    found = generalised_advantages(rewards, values[:-1], values[1:], ended, ended, 0.5, 0.5)
    assert found[:, 0].tolist() == pytest.approx([1.8125, 3.25, 5])
    assert found[:, 1].tolist() == pytest.approx([1.25, 1, 5])


NONE = -1


def q_lambda(
    *, terminated: list[bool] | None = None, truncated: list[bool] | None = None, trace: float = 0.5
) -> list[float]:
    """Q(λ) of rewards 1, 2, 3 whose next states' best values are 1, 2, 8, of one environment."""
    end = np.array(terminated or [False] * 3)[:, None]
    cut = np.array(truncated or [False] * 3)[:, None]
    rewards, following = (np.array(v, np.float32)[:, None] for v in ([1, 2, 3], [1, 2, 8]))
    found = q_lambda_returns(rewards, following, end, end | cut, 0.5, trace)
    assert found.dtype == np.float32
    return found[:, 0].tolist()


def test_q_lambda_mixes_the_best_value_reached_with_the_return_from_there() -> None:
    # G₂ = 3 + 0.5·8 = 7, G₁ = 2 + 0.5·(0.5·2 + 0.5·7) = 4.25, G₀ = 1 + 0.5·(0.5·1 + 0.5·4.25)
    assert q_lambda() == [2.3125, 4.25, 7]


def test_q_lambda_with_lambda_0_is_q_learning_and_with_1_the_return() -> None:
    assert q_lambda(trace=0) == [1.5, 3, 7]
    assert q_lambda(trace=1) == [3.75, 5.5, 7]  # 2 + 0.5·7, 1 + 0.5·5.5


def test_q_lambda_ends_at_a_termination() -> None:
    # G₁ = 2, G₀ = 1 + 0.5·(0.5·1 + 0.5·2) = 1.75
    assert q_lambda(terminated=[False, True, False]) == [1.75, 2, 7]
    both = [False, True, False]
    assert q_lambda(terminated=both, truncated=both) == [1.75, 2, 7]


def test_q_lambda_bootstraps_through_a_truncation_and_no_credit_flows() -> None:
    # G₁ = 2 + 0.5·2 = 3, G₀ = 1 + 0.5·(0.5·1 + 0.5·3) = 2
    assert q_lambda(truncated=[False, True, False]) == [2, 3, 7]
