"""Losses and their targets as pure functions. B is the batch, A the number of actions.

Names follow rlax: `_tm1` is the step acted in, `_t` the step after it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FORBIDDEN = -1e9


def double_q_target(r_t: Tensor, discount_t: Tensor, q_t: Tensor, selector_q_t: Tensor) -> Tensor:
    """Targets of double Q-learning (van Hasselt et al. 2016, eq. 4).

    Args:
        r_t: (B,) rewards, summed over the n steps.
        discount_t: (B,) γⁿ, 0 after a termination (not after a truncation).
        q_t: (B, A) the target network's values of the next state.
        selector_q_t: (B, A) the values that choose the action; q_t itself for plain DQN.

    Returns:
        (B,)
    """
    best = selector_q_t.argmax(dim=1, keepdim=True)  # (B, 1)
    return r_t + discount_t * q_t.gather(1, best).squeeze(1)


def sarsa_target(
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    a_t: Tensor,
    epsilon: float,
    mask_t: Tensor | None = None,
) -> Tensor:
    """Targets of SARSA (Rummery & Niranjan 1994): the next state is worth what was done in it.

    Where nothing was done in it, as after a truncation, the expectation over what would have
    been stands for that.

    Args:
        r_t, discount_t: (B,)
        q_t: (B, A)
        a_t: (B,) int64, the action taken in the next state; -1 where none was.
        epsilon: of the ε-greedy policy.
        mask_t: (B, A) the actions that are allowed in the next state; None: all.

    Returns:
        (B,)
    """
    taken = q_t.gather(1, a_t.clamp_min(0).unsqueeze(1)).squeeze(1)  # (B,)
    value = torch.where(a_t >= 0, taken, epsilon_greedy_value(q_t, epsilon, mask_t))
    return r_t + discount_t * value


def expected_sarsa_target(
    r_t: Tensor, discount_t: Tensor, q_t: Tensor, epsilon: float, mask_t: Tensor | None = None
) -> Tensor:
    """Targets of Expected SARSA (van Seijen et al. 2009); arguments as for `sarsa_target`."""
    return r_t + discount_t * epsilon_greedy_value(q_t, epsilon, mask_t)


def epsilon_greedy_value(q_t: Tensor, epsilon: float, mask_t: Tensor | None = None) -> Tensor:
    """Σ_a π(a|s)·q(s, a) of the ε-greedy policy over the actions allowed: (B, A) → (B,)"""
    if mask_t is None:
        return epsilon * q_t.mean(dim=1) + (1 - epsilon) * q_t.amax(dim=1)
    mean = (q_t * mask_t).sum(dim=1) / mask_t.sum(dim=1)
    return epsilon * mean + (1 - epsilon) * only_allowed(q_t, mask_t).amax(dim=1)


def only_allowed(q: Tensor, mask: Tensor | None) -> Tensor:
    """Values among which no action that is forbidden is the best: (B, A), (B, A) → (B, A)

    Forbidden ones are -1e9, since infinities become NaN when they are multiplied by 0.
    """
    return q if mask is None else q.masked_fill(~mask, FORBIDDEN)


def error_loss(prediction: Tensor, target: Tensor, delta: float | None) -> Tensor:
    """Huber's loss of each element, quadratic within ±delta; without delta |target - prediction|.

    No gradient flows into the target. Both (…) → (…)
    """
    if delta is None:
        return functional.l1_loss(prediction, target.detach(), reduction="none")
    return functional.huber_loss(prediction, target.detach(), reduction="none", delta=delta)


def error_slope(error: Tensor, delta: float | None) -> Tensor:
    """The derivative of `error_loss` by its prediction, of errors target - prediction: (…) → (…)"""
    return -error.sign() if delta is None else -error.clamp(-delta, delta)


def chosen(q_tm1: Tensor, a_tm1: Tensor) -> Tensor:
    """Of each row what belongs to its action: (B, A, …), (B,) int64 → (B, …)"""
    return q_tm1[torch.arange(len(a_tm1), device=a_tm1.device), a_tm1]


def td_loss(q_tm1: Tensor, a_tm1: Tensor, target: Tensor, delta: float) -> Tensor:
    """Mean Huber loss of the chosen actions' values: quadratic within ±delta, linear outside.

    Args:
        q_tm1: (B, A)
        a_tm1: (B,) int64
        target: (B,), no gradient flows into it.

    Returns:
        scalar
    """
    values = q_tm1.gather(1, a_tm1.unsqueeze(1)).squeeze(1)  # (B,)
    return functional.huber_loss(values, target.detach(), delta=delta)


def quantile_loss(theta_tm1: Tensor, target: Tensor, delta: float | None) -> Tensor:
    """Quantile Huber loss (Dabney et al. 2018, eq. 10), summed over the quantiles predicted.

    The quantile at τᵢ = (i + ½) / N is where a share τᵢ of what is reached lies below: errors
    u = target - θᵢ weigh τᵢ above it, and 1 - τᵢ below.

    Args:
        theta_tm1: (B, N) quantiles of the chosen actions' returns.
        target: (B, M) samples of what they should be; no gradient flows into them.
        delta: κ; without, the quantile regression loss itself.

    Returns:
        (B,)
    """
    count = theta_tm1.shape[1]
    places = (torch.arange(count, device=theta_tm1.device) + 0.5) / count  # (N,)
    prediction = theta_tm1.unsqueeze(2).expand(-1, -1, target.shape[1])  # (B, N, M)
    reached = target.unsqueeze(1).expand(-1, count, -1)  # (B, N, M)
    below = (reached < prediction).float()
    weight = (places.unsqueeze(1) - below).abs()
    losses: Tensor = weight * error_loss(prediction, reached, delta) / (delta or 1.0)
    return losses.mean(dim=2).sum(dim=1)


def clipped_policy_loss(
    log_probability: Tensor, old_log_probability: Tensor, advantage: Tensor, clip_range: float
) -> Tensor:
    """PPO's clipped surrogate, to be minimised (Schulman et al. 2017, eq. 7). All (B,)."""
    ratio = torch.exp(log_probability - old_log_probability)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean()


def policy_gradient_loss(log_probability: Tensor, advantage: Tensor) -> Tensor:
    """-mean log π(a|s)·A, whose gradient is the policy gradient (Sutton et al. 2000). All (B,);
    no gradient flows into the advantage."""
    return -(log_probability * advantage.detach()).mean()


def twin_target(r_t: Tensor, discount_t: Tensor, q_t: Tensor) -> Tensor:
    """Targets by the lesser of two critics (Fujimoto et al. 2018, eq. 10).

    Args:
        r_t, discount_t: (B,), as in `double_q_target`.
        q_t: (2, B) the slow critics' values of the next state and action.

    Returns:
        (B,)
    """
    return torch.addcmul(r_t, discount_t, q_t.amin(dim=0))


def soft_twin_target(
    r_t: Tensor, discount_t: Tensor, q_t: Tensor, log_density: Tensor, temperature: Tensor
) -> Tensor:
    """The same of SAC, whose next state is worth min Q - α·log π (Haarnoja et al. 2018, eq. 3).

    Args:
        log_density: (B,) of the next action, drawn from the policy.
        temperature: α, a scalar.

    Returns:
        (B,)
    """
    return torch.addcmul(r_t, discount_t, q_t.amin(dim=0) - temperature * log_density)


def soft_expected_target(
    r_t: Tensor, discount_t: Tensor, q_t: Tensor, log_table: Tensor, temperature: Tensor
) -> Tensor:
    """The same of discrete SAC, in expectation (Christodoulou 2019, eq. 10).

    Args:
        q_t: (2, B, A) the slow critics' values of the next state.
        log_table: (B, A) log-probabilities of its actions.

    Returns:
        (B,)
    """
    value = (log_table.exp() * (q_t.amin(dim=0) - temperature * log_table)).sum(dim=1)
    return torch.addcmul(r_t, discount_t, value)


def twin_value_loss(q_tm1: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared errors of both critics (2, B) against one target (B,), summed."""
    return 0.5 * functional.mse_loss(q_tm1, target.expand_as(q_tm1)) * len(q_tm1)


def temperature_loss(log_temperature: Tensor, log_density: Tensor, target_entropy: float) -> Tensor:
    """Raises the temperature while the entropy is below its target, and lowers it above.

    Args:
        log_temperature: log α, a scalar; the only thing with a gradient.
        log_density: (B,) of actions drawn from the policy, or their expectation.
    """
    return -log_temperature * (log_density.detach().mean() + target_entropy)


def smoothed_actions(actions: Tensor, noise: Tensor, noise_clip: float) -> Tensor:
    """Actions within [-1, 1] with clipped noise added (Fujimoto et al. 2018, eq. 14). (B, k)"""
    return (actions + noise.clamp(-noise_clip, noise_clip)).clamp(-1, 1)


def preference_log_likelihood(
    left: Tensor, right: Tensor, log_tie: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of left, right and tie: Bradley-Terry with ties (Davidson 1970).

    P(left) : P(right) : P(tie) = e^left : e^right : ν·e^((left+right)/2)

    Args:
        left, right: (...) utilities of the two segments.
        log_tie: log ν, which broadcasts to them; larger makes ties more likely.

    Returns:
        three tensors (...)
    """
    tie = log_tie + (left + right) / 2
    scores = torch.stack([left, right, tie.expand_as(left)], dim=0)  # (3, ...)
    log_left, log_right, log_both = torch.log_softmax(scores, dim=0)
    return log_left, log_right, log_both
