"""Losses on small arrays, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from services.trainer.losses import (
    FORBIDDEN,
    chosen,
    clipped_policy_loss,
    double_q_target,
    epsilon_greedy_value,
    error_loss,
    expected_sarsa_target,
    only_allowed,
    policy_gradient_loss,
    preference_log_likelihood,
    quantile_loss,
    sarsa_target,
    td_loss,
)

Q = tensor([[1.0, 5.0], [3.0, 2.0]])


def test_double_q_takes_the_selectors_action_and_the_targets_value() -> None:
    # The selector prefers action 0 in row 0 and action 1 in row 1:
    # 1 + 0.5·1 = 1.5 and 2 + 0·2 = 2 (terminated)
    selector = tensor([[9.0, 0.0], [0.0, 9.0]])
    target = double_q_target(tensor([1.0, 2.0]), tensor([0.5, 0.0]), Q, selector)
    assert target.tolist() == [1.5, 2.0]


def test_with_itself_as_selector_it_is_q_learning() -> None:
    # 1 + 0.5·max(1, 5) = 3.5; 2 + 1·max(3, 2) = 5
    target = double_q_target(tensor([1.0, 2.0]), tensor([0.5, 1.0]), Q, Q)
    assert target.tolist() == [3.5, 5.0]


def test_epsilon_greedy_is_worth_a_share_of_the_mean_and_of_the_best() -> None:
    # ε = 0.4: 0.4·3 + 0.6·5 = 4.2 and 0.4·2.5 + 0.6·3 = 2.8
    assert epsilon_greedy_value(Q, 0.4).tolist() == pytest.approx([4.2, 2.8])


def test_expected_sarsa_bootstraps_with_the_expectation() -> None:
    # 1 + 0.5·4.2 = 3.1; 2 + 0·2.8 = 2 (terminated)
    target = expected_sarsa_target(tensor([1.0, 2.0]), tensor([0.5, 0.0]), Q, 0.4)
    assert target.tolist() == pytest.approx([3.1, 2.0])


def test_sarsa_bootstraps_with_what_was_done_and_where_nothing_was_with_the_expectation() -> None:
    # 1 + 0.5·1 = 1.5; 2 + 0.5·2.8 = 3.4 (cut short); 3 + 0·5 = 3 (terminated)
    q_t = tensor([[1.0, 5.0], [3.0, 2.0], [1.0, 5.0]])
    r_t, discount_t = tensor([1.0, 2.0, 3.0]), tensor([0.5, 0.5, 0.0])
    target = sarsa_target(r_t, discount_t, q_t, tensor([0, -1, -1]), 0.4)
    assert target.tolist() == pytest.approx([1.5, 3.4, 3.0])


def test_what_is_forbidden_is_worth_nothing_to_anyone() -> None:
    # Only 1 and only 2 remain of Q; without a mask 5 and 3 are best.
    mask = tensor([[True, False], [False, True]])
    assert epsilon_greedy_value(Q, 0.4, mask).tolist() == [1, 2]
    assert only_allowed(Q, mask).tolist() == [[1, FORBIDDEN], [FORBIDDEN, 2]]
    assert only_allowed(Q, None) is Q
    r_t, discount_t = tensor([1.0, 2.0]), tensor([0.5, 0.5])
    assert double_q_target(r_t, discount_t, Q, only_allowed(Q, mask)).tolist() == [1.5, 3.0]
    assert expected_sarsa_target(r_t, discount_t, Q, 0.4, mask).tolist() == [1.5, 3.0]
    found = sarsa_target(r_t, discount_t, Q, tensor([-1, 1]), 0.4, mask)
    assert found.tolist() == [1.5, 3.0]


def test_the_expectation_is_over_what_is_allowed() -> None:
    # Of 1, 5 and 9 the last is forbidden: 0.4·3 + 0.6·5
    mask = tensor([[True, True, False]])
    assert epsilon_greedy_value(tensor([[1.0, 5.0, 9.0]]), 0.4, mask).item() == pytest.approx(4.2)


def test_an_error_counts_by_hubers_rule_or_by_its_size() -> None:
    # errors -0.5 and 3: 0.5·0.25 and 2·(3 - 1) with delta 2
    prediction, target = tensor([1.0, 0.0]), tensor([0.5, 3.0])
    assert error_loss(prediction, target, 2.0).tolist() == [0.125, 4.0]
    assert error_loss(prediction, target, None).tolist() == [0.5, 3.0]


def test_of_each_row_what_belongs_to_its_action_is_chosen() -> None:
    quantiles = tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    assert chosen(quantiles, tensor([1, 0])).tolist() == [[3, 4], [5, 6]]
    assert chosen(Q, tensor([1, 0])).tolist() == [5, 3]


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        # Places ¼ and ¾; errors 2 and -0.5 of θ = 0, 1 and -1.5 of θ = 1.
        # Huber of 2, -0.5, 1, -1.5: 1.5, 0.125, 0.5, 1
        # (¼·1.5 + ¾·0.125) / 2 + (¾·0.5 + ¼·1) / 2 = 0.234375 + 0.3125
        (1.0, 0.546875),
        # With κ = 0.5, over κ: 1.75, 0.25, 0.75, 1.25
        # (¼·1.75 + ¾·0.25) / 2 + (¾·0.75 + ¼·1.25) / 2 = 0.3125 + 0.4375
        (0.5, 0.75),
        # (¼·2 + ¾·0.5) / 2 + (¾·1 + ¼·1.5) / 2 = 0.4375 + 0.5625
        (None, 1.0),
    ],
)
def test_quantiles_weigh_errors_by_their_side(delta: float | None, expected: float) -> None:
    theta, target = tensor([[0.0, 1.0], [0.0, 0.0]]), tensor([[2.0, -0.5], [0.0, 0.0]])
    assert quantile_loss(theta, target, delta).tolist() == pytest.approx([expected, 0])


def test_the_quantile_loss_is_least_at_the_quantiles() -> None:
    samples = tensor([[0.0, 1.0, 2.0, 3.0]])
    best = quantile_loss(tensor([[0.5, 2.5]]), samples, None).item()
    for other in ([-0.5, 2.5], [1.5, 2.5], [0.5, 1.5], [0.5, 3.5]):
        assert quantile_loss(tensor([other]), samples, None).item() > best


def test_the_td_loss_is_quadratic_within_delta_and_linear_outside() -> None:
    # Chosen values 5 and 3, targets 4.5 and 0: errors 0.5 and 3, delta 1:
    # (0.5·0.5² + 1·(3 - 0.5)) / 2 = (0.125 + 2.5) / 2
    loss = td_loss(Q, tensor([1, 0]), tensor([4.5, 0.0]), delta=1.0)
    assert loss.item() == pytest.approx(1.3125)


def test_the_td_losss_gradient_is_the_error_clipped() -> None:
    q = Q.clone().requires_grad_()
    td_loss(q, tensor([1, 0]), tensor([4.5, 0.0]), delta=1.0).backward()
    # error / 2 and clipped error / 2 for the chosen actions, nothing for the others
    assert q.grad is not None
    assert q.grad.tolist() == [[0.0, 0.25], [0.5, 0.0]]


def test_no_gradient_flows_into_the_td_target() -> None:
    target = tensor([4.5, 0.0], requires_grad=True)
    td_loss(Q.clone().requires_grad_(), tensor([1, 0]), target, delta=1.0).backward()
    assert target.grad is None


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.4),  # good and already likelier: no more than 1.2·2
        (0.5, 2.0, -1.0),  # good but less likely: the whole way back
        (1.5, -2.0, 3.0),  # bad but likelier: the whole way back
        (0.5, -2.0, 1.6),  # bad and already less likely: no more than 0.8·2
    ],
)
def test_the_policy_loss_is_clipped_where_the_policy_went_far_enough(
    ratio: float, advantage: float, expected: float
) -> None:
    new = tensor([math.log(0.2 * ratio)])
    loss = clipped_policy_loss(new, tensor([math.log(0.2)]), tensor([advantage]), 0.2)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(("ratio", "advantage", "moves"), [(1.5, 2.0, False), (1.5, -2.0, True)])
def test_where_it_is_clipped_nothing_is_learned(
    ratio: float, advantage: float, moves: bool
) -> None:
    new = tensor([math.log(0.2 * ratio)], requires_grad=True)
    clipped_policy_loss(new, tensor([math.log(0.2)]), tensor([advantage]), 0.2).backward()
    assert new.grad is not None
    assert bool(new.grad.abs().item() > 0) is moves


def test_preferences_follow_bradley_terry_with_ties() -> None:
    # e^left : e^right : ν·e^((left+right)/2) = 4 : 1 : 0.5·√4 = 4 : 1 : 1
    found = preference_log_likelihood(tensor([math.log(4)]), tensor([0.0]), tensor([math.log(0.5)]))
    assert [p.exp().item() for p in found] == pytest.approx([4 / 6, 1 / 6, 1 / 6])


def test_the_three_probabilities_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 5, 100, generator=generator) * 10
    found = preference_log_likelihood(left, right, torch.randn(5, 1, generator=generator))
    total = torch.stack(found).exp().sum(dim=0)
    torch.testing.assert_close(total, torch.ones(5, 100))


def test_sides_can_be_swapped() -> None:
    left, right, log_tie = tensor([1.0, -2.0]), tensor([0.5, 3.0]), tensor(-1.0)
    one = preference_log_likelihood(left, right, log_tie)
    two = preference_log_likelihood(right, left, log_tie)
    for a, b in zip(one, (two[1], two[0], two[2]), strict=True):
        torch.testing.assert_close(a, b)


def test_only_the_difference_of_utilities_counts() -> None:
    one = preference_log_likelihood(tensor([1.0]), tensor([2.0]), tensor(-1.0))
    two = preference_log_likelihood(tensor([501.0]), tensor([502.0]), tensor(-1.0))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_larger_tie_parameter_makes_ties_likelier() -> None:
    ties = [
        preference_log_likelihood(tensor([0.0]), tensor([0.0]), tensor([v]))[2].item()
        for v in (-2.0, 0.0, 2.0)
    ]
    assert ties == sorted(ties)
    assert ties[1] == pytest.approx(math.log(1 / 3))


def test_the_policy_gradient_by_hand() -> None:
    log_probability = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantage = torch.tensor([3.0, -1.0], requires_grad=True)
    loss = policy_gradient_loss(log_probability, advantage)
    assert loss.item() == pytest.approx((3 - 2) / 2)
    loss.backward()
    assert log_probability.grad.tolist() == [-1.5, 0.5]
    assert advantage.grad is None
