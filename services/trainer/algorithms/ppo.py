"""Proximal policy optimisation for discrete actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.trainer.algorithms.state import join, optimizer_tensors, restore_optimizer, split
from services.trainer.collector import Choice
from services.trainer.config import PPOConfig
from services.trainer.losses import clipped_policy_loss
from services.trainer.networks import ActorCritic, LeashedActorCritic


@dataclass(frozen=True)
class RolloutBatch:
    """Steps of a rollout, flattened; B of them.

    observation: (B, *shape); action: (B,) int64; log_probability, advantage, value_target: (B,)
    """

    observation: npt.NDArray[Any]
    action: npt.NDArray[np.int64]
    log_probability: npt.NDArray[np.float32]
    advantage: npt.NDArray[np.float32]
    value_target: npt.NDArray[np.float32]


class PPOLearner:
    """An actor and a critic, improved on one rollout at a time."""

    def __init__(
        self,
        network: ActorCritic | LeashedActorCritic,
        config: PPOConfig,
        device: torch.device,
    ) -> None:
        self.network = network.to(device)
        self._config, self._device = config, device
        self._optimizer = torch.optim.Adam(
            [p for p in self.network.parameters() if p.requires_grad],
            lr=config.learning_rate,
            eps=1e-5,
            fused=True,
        )
        self.updates = 0

    def anneal(self, share_done: float) -> None:
        """Set the learning rate for this share of the run done, in [0, 1]."""
        if self._config.anneal_learning_rate:
            for group in self._optimizer.param_groups:
                group["lr"] = self._config.learning_rate * (1 - share_done)

    def update(self, batch: RolloutBatch, generator: np.random.Generator) -> dict[str, float]:
        """Several epochs of minibatches over the rollout; returns the last one's figures."""
        tensors = [
            self._tensor(array)
            for array in (
                batch.observation,
                batch.action,
                batch.log_probability,
                batch.advantage,
                batch.value_target,
            )
        ]
        metrics: dict[str, Tensor] = {}
        for _ in range(self._config.epochs):
            order = torch.from_numpy(generator.permutation(len(batch.action)))
            for part in torch.split(order, self._config.minibatch_size):
                metrics = self._step(*(tensor[part.to(self._device)] for tensor in tensors))
        self.updates += 1
        return {name: value.item() for name, value in metrics.items()}

    def _step(
        self,
        observation: Tensor,
        action: Tensor,
        old_log_probability: Tensor,
        advantage: Tensor,
        value_target: Tensor,
    ) -> dict[str, Tensor]:
        log_probabilities = torch.log_softmax(self.network(observation), dim=1)  # (B, A)
        if len(advantage) > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_probability = log_probabilities.gather(1, action.unsqueeze(1)).squeeze(1)
        policy_loss = clipped_policy_loss(
            log_probability, old_log_probability, advantage, self._config.clip_range
        )
        value_loss = functional.mse_loss(self.network.value(observation), value_target)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1).mean()
        loss = (
            policy_loss
            + self._config.value_coefficient * value_loss
            - self._config.entropy_coefficient * entropy
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self._config.max_gradient_norm)
        self._optimizer.step()
        kl = (old_log_probability - log_probability).mean()
        return {
            "loss": loss.detach(),
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "approximate_kl": kl.detach(),
        }

    def act(self, observations: npt.NDArray[Any], generator: np.random.Generator) -> Choice:
        """Actions drawn from the policy, by inverse CDF from the run's own generator."""
        with torch.inference_mode():
            logits = self.network(self._tensor(observations))
            log_probabilities = torch.log_softmax(logits, dim=1).cpu().numpy()  # (N, A)
        cumulative = np.exp(log_probabilities.astype(np.float64)).cumsum(axis=1)
        drawn = generator.random((len(cumulative), 1)) * cumulative[:, -1:]
        actions = (drawn >= cumulative).sum(axis=1)
        chosen = np.take_along_axis(log_probabilities, actions[:, None], axis=1)[:, 0]
        return Choice(actions, chosen)

    def values(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(B, *shape) → (B,)"""
        with torch.inference_mode():
            values: npt.NDArray[np.float32] = (
                self.network.value(self._tensor(observations)).cpu().numpy()
            )
        return values

    def greedy(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """(B, *shape) → (B,)"""
        with torch.inference_mode():
            actions: npt.NDArray[np.int64] = (
                self.network(self._tensor(observations)).argmax(dim=1).cpu().numpy()
            )
        return actions

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by dotted name."""
        return join(network=self.network.state_dict(), optimizer=optimizer_tensors(self._optimizer))

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        self.network.load_state_dict(split(tensors, "network"))
        restore_optimizer(self._optimizer, split(tensors, "optimizer"))
        self.updates = updates

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
