"""Proximal policy optimisation (Schulman et al. 2017)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.trainer.actor_critic import ActorCritic, LeashedActorCritic
from services.trainer.algorithms.actor_critic import ActorCriticLearner, RolloutBatch
from services.trainer.config import PPOConfig
from services.trainer.losses import clipped_policy_loss

Tensors = tuple[Tensor, ...]


class PPOLearner(ActorCriticLearner):
    """Several epochs of minibatches over each rollout, with a clipped probability ratio."""

    def __init__(
        self,
        network: ActorCritic | LeashedActorCritic,
        config: PPOConfig,
        device: torch.device,
    ) -> None:
        super().__init__(network, config, device)
        self._config = config

    def update(self, batch: RolloutBatch, generator: np.random.Generator) -> dict[str, float]:
        """See ActorCriticLearner."""
        config = self._config
        tensors: Tensors = (
            self._seen(batch.observation),
            self._tensor(batch.action),
            self._tensor(batch.log_probability),
            self._tensor(batch.advantage),
            self._tensor(batch.value_target),
        )
        for _ in range(config.epochs):
            for part in self._parts(tensors, len(batch), generator):
                losses = self._step(*part)
        self.updates += 1
        return self._figures(part, *losses)

    def _parts(self, tensors: Tensors, count: int, generator: np.random.Generator) -> list[Tensors]:
        size = self._config.minibatch_size
        if count <= size:
            return [tensors]
        order = torch.from_numpy(generator.permutation(count)).to(self._device)
        columns = [torch.split(tensor[order], size) for tensor in tensors]
        return list(zip(*columns, strict=True))

    def _step(
        self,
        observation: Tensor,
        action: Tensor,
        acted: Tensor,
        advantage: Tensor,
        value_target: Tensor,
    ) -> Tensors:
        if len(advantage) > 1:
            deviation, mean = torch.std_mean(advantage)
            advantage = (advantage - mean) / (deviation + 1e-8)
        parameters, values = self.actor_critic(observation)
        log_probability = self.head.log_probability(parameters, action)
        policy_loss = clipped_policy_loss(
            log_probability, acted, advantage, self._config.clip_range
        )
        value_loss = functional.mse_loss(values, value_target)
        loss = torch.add(policy_loss, value_loss, alpha=self._config.value_coefficient)
        self._adam.descend(loss - self._entropy_term(parameters))
        return policy_loss, value_loss, parameters, log_probability

    @torch.no_grad()
    def _figures(
        self,
        part: Tensors,
        policy_loss: Tensor,
        value_loss: Tensor,
        parameters: Tensor,
        log_probability: Tensor,
    ) -> dict[str, float]:
        _, _, acted, _, _ = part
        return {
            "loss": (policy_loss + self._config.value_coefficient * value_loss).item(),
            "policy_loss": policy_loss.item(),
            "value_loss": value_loss.item(),
            "entropy": self.head.entropy(parameters).mean().item(),
            "approximate_kl": (acted - log_probability).mean().item(),
        }
