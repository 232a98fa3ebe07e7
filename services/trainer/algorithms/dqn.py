"""Deep Q-learning: a network, its target, an optimiser, and one update.

Algorithms of the family differ in what their targets say of the state s' that was reached,
whose values the target network gives (q⁻) and the network itself (q):

    q-learning       max_a q⁻(s', a)                     Mnih et al. 2015
    double           q⁻(s', argmax_a q(s', a))           van Hasselt et al. 2016
    sarsa            q⁻(s', a') of the action taken      Rummery & Niranjan 1994
    expected-sarsa   Σ_a π(a|s')·q⁻(s', a), π ε-greedy   van Seijen et al. 2009

A terminal state is worth nothing; one where the episode was cut short is worth what any state
is. Nobody acted in it, so sarsa takes the expectation there. ε is the one in force at the
update, over all environments. SARSA's replay holds what earlier policies did: the smaller it
is, the nearer it is to what the policy does now.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.trainer.algorithms.q_learner import QLearner
from services.trainer.algorithms.state import join, split
from services.trainer.config import Bootstrap, DQNConfig, Loss
from services.trainer.dense import dense
from services.trainer.experience import Experience
from services.trainer.losses import (
    double_q_target,
    error_loss,
    error_slope,
    expected_sarsa_target,
    only_allowed,
    sarsa_target,
)
from services.trainer.networks import QNetwork
from services.trainer.noisy import resample


@dataclass(frozen=True)
class Update:
    """What came of an update.

    errors: (B,) TD errors of the transitions, before it.
    figures: of the learner; only after every 100th update, since reading them waits for the
        device.
    """

    errors: Tensor
    figures: dict[str, float]


class _Step(NamedTuple):
    """A step down the gradient: loss, TD errors (B,), values (B, A), the gradient's norm."""

    loss: Callable[[], Tensor]
    errors: Tensor
    values: Tensor
    norm: Tensor


class DQNLearner(QLearner):
    """Learns action values from batches of n-step transitions.

    A noisy network draws new noise before it acts and before it is updated; what is evaluated
    and exported is without.

    Args:
        network: (B, *observation) → (B, actions).
        generator: of the noise.
    """

    network: QNetwork

    def __init__(
        self,
        network: QNetwork,
        config: DQNConfig,
        device: torch.device,
        generator: np.random.Generator,
    ) -> None:
        super().__init__(
            network,
            config.learning_rate,
            device,
            max_gradient_norm=config.max_gradient_norm,
            max_gradient_value=config.max_gradient_value,
        )
        self._target_network = copy.deepcopy(self.network).requires_grad_(False)
        self._dense, self._dense_target = dense(self.network), dense(self._target_network)
        self._config, self._generator = config, generator
        self._noisy = network.config.noisy
        image = network.config.image
        self._normed_by_batch = image is not None and image.norm == "batch"
        if self._normed_by_batch:
            self.network.eval()
            self._target_network.eval()
        self._delta = config.huber_delta if config.loss == Loss.HUBER else None

    def update(self, experience: Experience, epsilon: float = 0.0) -> Update:
        """One gradient step; moves the target network every so many.

        Args:
            epsilon: of the policy in force, for sarsa and expected-sarsa.
        """
        if self._noisy:
            for network in (self.network, self._target_network):
                resample(network.train(), self._generator)
        descend = self._descend_by_autograd if self._dense is None else self._descend_densely
        step = descend(experience, epsilon)
        self._follow()
        if self.updates % 100:
            return Update(step.errors, {})
        figures = {
            "loss": step.loss().item(),
            "q_mean": step.values.mean().item(),
            "gradient_norm": step.norm.item(),
        }
        return Update(step.errors, figures)

    def _descend_by_autograd(self, experience: Experience, epsilon: float) -> _Step:
        losses, errors, values = self._losses(experience, epsilon)  # (B,), (B,), (B, A)
        loss = self._weighted(losses, experience).mean()
        return _Step(lambda: loss, errors, values, self._descend(loss))

    @torch.inference_mode()
    def _descend_densely(self, experience: Experience, epsilon: float) -> _Step:
        """The same for a network that knows its own gradient."""
        assert self._dense is not None
        target = self._target(experience, epsilon)  # (B,)
        values = self._dense.forward(self._tensor(experience.observation))  # (B, A)
        actions = self._tensor(experience.action).long().unsqueeze(1)
        chosen = values.gather(1, actions).squeeze(1)  # (B,)
        errors = target - chosen
        slopes = self._weighted(error_slope(errors, self._delta), experience) / len(errors)
        self._dense.backward(torch.zeros_like(values).scatter_(1, actions, slopes.unsqueeze(1)))
        self.updates += 1
        return _Step(
            lambda: self._weighted(error_loss(chosen, target, self._delta), experience).mean(),
            errors,
            values,
            self._descent.step(),
        )

    def _weighted(self, losses: Tensor, experience: Experience) -> Tensor:
        if experience.weights is None:
            return losses
        return losses * self._tensor(experience.weights)

    def _losses(self, experience: Experience, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of each transition the loss and the TD error, (B,), and the values, (B, A)."""
        target = self._target(experience, epsilon)
        values = self._learning_values(experience)  # (B, A)
        actions = self._tensor(experience.action).long()
        chosen = values.gather(1, actions.unsqueeze(1)).squeeze(1)  # (B,)
        return error_loss(chosen, target, self._delta), (target - chosen).detach(), values.detach()

    def _learning_values(self, experience: Experience) -> Tensor:
        """(B, A) through which gradients flow.

        Where layers are normalised by batch, these are the only values that are normalised by
        their own batch, and that the running means follow: what acts, and what targets are made
        of, must not depend on its company.
        """
        seen = self._tensor(experience.observation)
        if not self._normed_by_batch:
            values: Tensor = self.network(seen)
            return values
        values = self.network.train()(seen)
        self.network.eval()
        return values

    @torch.no_grad()
    def _target(self, experience: Experience, epsilon: float) -> Tensor:
        r_t, discount_t = self._reward(experience), self._tensor(experience.discount)
        next_observation = self._tensor(experience.next_observation)
        mask_t = self._mask(experience)
        q_t = (self._dense_target or self._target_network).forward(next_observation)  # (B, A)
        match self._config.bootstrap:
            case Bootstrap.Q_LEARNING:
                return double_q_target(r_t, discount_t, q_t, only_allowed(q_t, mask_t))
            case Bootstrap.DOUBLE:
                selector = (self._dense or self.network).forward(next_observation)
                return double_q_target(r_t, discount_t, q_t, only_allowed(selector, mask_t))
            case Bootstrap.EXPECTED_SARSA:
                return expected_sarsa_target(r_t, discount_t, q_t, epsilon, mask_t)
            case Bootstrap.SARSA:
                assert experience.next_action is not None
                a_t = self._tensor(experience.next_action)
                return sarsa_target(r_t, discount_t, q_t, a_t, epsilon, mask_t)

    def _mask(self, experience: Experience) -> Tensor | None:
        return None if experience.next_mask is None else self._tensor(experience.next_mask)

    def _reward(self, experience: Experience) -> Tensor:
        return self._tensor(experience.reward) / self._config.reward_scale

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the target network to the network, or towards it."""
        config = self._config
        if self.updates % config.target_update_period:
            return
        if config.target_tau == 1:
            self._target_network.load_state_dict(self.network.state_dict())
            return
        targets: list[Tensor] = list(self._target_network.parameters())
        torch._foreach_lerp_(targets, tuple(self.network.parameters()), config.target_tau)

    def exploring_values(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """See QLearner; of a noisy network, with new noise."""
        if self._noisy:
            resample(self.network.train(), self._generator)
        return super().q_values(observations)

    def q_values(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """See QLearner; of a noisy network, without noise."""
        if self._noisy:
            self.network.eval()
        return super().q_values(observations)

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by dotted name."""
        return super().tensors() | join(target=self._target_network.state_dict())

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        super().restore(tensors, updates)
        self._target_network.load_state_dict(split(tensors, "target"))
