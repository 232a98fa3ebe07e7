"""Fits an ensemble to preferences, and judges it on those it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.common.errors import PreconditionFailed
from services.trainer.config import RewardConfig
from services.trainer.losses import preference_log_likelihood
from services.trainer.reward.calibration import (
    Bin,
    expected_calibration_error,
    reliability,
    wilson_interval,
)
from services.trainer.reward.ensemble import RewardEnsemble
from services.trainer.reward.preferences import LEFT, RIGHT, TIE, PreferenceData


@dataclass(frozen=True)
class Report:
    """What a fit is worth on held-out preferences; see RewardModelFitted for the figures."""

    train_preferences: int
    held_out_preferences: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    log_loss: float
    calibration_error: float
    bins: list[Bin]

    def passes(self, config: RewardConfig) -> bool:
        """Whether it may teach a policy; unjudged only where no accuracy is asked for."""
        judged = self.held_out_preferences > 0 or config.min_accuracy == 0
        return (
            judged
            and self.accuracy >= config.min_accuracy
            and self.calibration_error <= config.max_calibration_error
        )


def fit(
    data: PreferenceData,
    actions: int,
    config: RewardConfig,
    generator: np.random.Generator,
    on_epoch: Callable[[int], None] = lambda done: None,
) -> tuple[RewardEnsemble, Report]:
    """Fit by maximum likelihood of Bradley-Terry with ties (Davidson 1970).

    Each member has a bootstrap sample of the preferences of its own, as weights. Targets are
    softened by `label_noise`, for people err (Christiano et al. 2017). All of the training
    preferences make one batch: there are hundreds, not millions.

    Raises:
        PreconditionFailed: when every preference is held out.
    """
    train = np.flatnonzero(~data.held_out)
    if not len(train):
        raise PreconditionFailed("every preference is held out; label more pairs to learn from")
    torch.manual_seed(int(generator.integers(2**31)))
    steps = _Steps.of(data)
    ensemble = RewardEnsemble(
        steps.observations.shape[1],
        actions,
        config.members,
        config.hidden,
        config.utility_scale,
        config.max_reward,
    )
    ensemble.standardise(steps.observations)
    weights = _bootstrap(len(train), config.members, generator)
    targets = _soft_targets(data.outcome[train], config.label_noise)
    # A penalty in the loss, not AdamW's decay: Adam turns it into steady shrinking of just those
    # weights that the preferences say nothing about, such as those of speeds that average out
    # within a segment and would otherwise be noise in every step's reward.
    optimizer = torch.optim.Adam(
        ensemble.parameters(), lr=config.learning_rate, weight_decay=config.weight_penalty
    )
    for epoch in range(config.epochs):
        log_likelihood = _log_likelihood(ensemble, steps, data, train)  # (E, P, 3)
        loss = -(weights * (targets * log_likelihood).sum(dim=2)).sum(dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        on_epoch(epoch + 1)
    ensemble.requires_grad_(False)
    ensemble.normalise(steps.observations, steps.actions)
    return ensemble, judge(ensemble, data, config)


def judge(ensemble: RewardEnsemble, data: PreferenceData, config: RewardConfig) -> Report:
    """Accuracy and calibration on the held-out preferences."""
    held_out = np.flatnonzero(data.held_out)
    probabilities = predict(ensemble, data, held_out)  # (P, 3)
    outcome = data.outcome[held_out]
    decided = outcome != TIE
    sided = probabilities[decided][:, [LEFT, RIGHT]]
    left = sided[:, LEFT] / sided.sum(axis=1)
    preferred_left = (outcome[decided] == LEFT).astype(np.float64)
    correct = int(((left > 0.5) == (preferred_left == 1)).sum())
    trials = int(decided.sum())
    bins = reliability(left, preferred_left, config.bins)
    likelihood = probabilities[np.arange(len(outcome)), outcome]
    return Report(
        train_preferences=int((~data.held_out).sum()),
        held_out_preferences=len(held_out),
        accuracy=correct / trials if trials else 0.0,
        accuracy_interval=wilson_interval(correct, trials),
        log_loss=float(-np.log(likelihood).mean()) if len(outcome) else float("nan"),
        calibration_error=expected_calibration_error(bins),
        bins=bins,
    )


def predict(
    ensemble: RewardEnsemble, data: PreferenceData, which: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """P(left), P(right), P(tie) of these preferences, the members' mean: (P, 3)."""
    with torch.inference_mode():
        log_likelihood = _log_likelihood(ensemble, _Steps.of(data), data, which)
    probabilities: npt.NDArray[np.float64] = log_likelihood.double().exp().mean(dim=0).numpy()
    return probabilities


@dataclass(frozen=True)
class _Steps:
    """Every step of every segment in one batch of N, and where it came from."""

    observations: Tensor  # (N, observation size)
    actions: Tensor  # (N,)
    segment: Tensor  # (N,) index of the segment
    lengths: Tensor  # (S,) steps of each segment, at least 1

    @property
    def segments(self) -> int:
        return len(self.lengths)

    @classmethod
    def of(cls, data: PreferenceData) -> _Steps:
        segment, step = np.nonzero(data.mask)
        observations = data.observations[segment, step].reshape(len(segment), -1)
        return cls(
            torch.from_numpy(observations),
            torch.from_numpy(data.actions[segment, step]),
            torch.from_numpy(segment),
            torch.from_numpy(data.mask.sum(axis=1).clip(1).astype(np.float32)),
        )


def _log_likelihood(
    ensemble: RewardEnsemble,
    steps: _Steps,
    data: PreferenceData,
    which: npt.NDArray[np.int64],
) -> Tensor:
    rewards = ensemble(steps.observations, steps.actions)  # (E, N)
    totals = rewards.new_zeros(ensemble.members, steps.segments)  # (E, S)
    totals = totals.index_add(1, steps.segment, rewards)
    utilities = ensemble.utility_scale * totals / steps.lengths
    left = utilities[:, torch.from_numpy(data.left[which])]  # (E, P)
    right = utilities[:, torch.from_numpy(data.right[which])]
    return torch.stack(preference_log_likelihood(left, right, ensemble.log_tie), dim=2)


def _bootstrap(count: int, members: int, generator: np.random.Generator) -> Tensor:
    """(E, P) weights that sum to 1: how often each preference is drawn for each member."""
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=members)
    return torch.from_numpy((drawn / count).astype(np.float32))


def _soft_targets(outcome: npt.NDArray[np.int64], label_noise: float) -> Tensor:
    """(P, 3): the outcome's one-hot row, mixed with an even left and right."""
    one_hot = np.eye(3, dtype=np.float32)[outcome]
    even = np.array([0.5, 0.5, 0.0], dtype=np.float32)
    return torch.from_numpy((1 - label_noise) * one_hot + label_noise * even)
