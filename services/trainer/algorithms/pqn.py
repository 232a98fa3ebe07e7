"""Parallel Q-learning (Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning").

Many environments in the place of a replay, LayerNorm in that of a target network: λ-returns of
a rollout are computed once with the network as it is, and learnt from in a few epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.trainer.algorithms.q_learner import QLearner
from services.trainer.config import PQNConfig
from services.trainer.networks import QNetwork
from services.trainer.observations import rows
from services.trainer.returns import q_lambda_returns

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QRollout:
    """T steps of B environments. `live` is false where an environment was being reset.

    observation: (T + 1, B, *shape); the last is after the last step. The others are (T, B).
    mask: (T + 1, B, A) which actions were allowed; None: all.
    """

    observation: npt.NDArray[Any]
    action: npt.NDArray[np.int64]
    reward: Floats
    terminated: Bools
    truncated: Bools
    live: Bools
    mask: Bools | None = None


class PQNLearner(QLearner):
    """Learns action values from one rollout at a time, by RAdam."""

    network: QNetwork

    def __init__(self, network: QNetwork, config: PQNConfig, device: torch.device) -> None:
        super().__init__(
            network,
            config.learning_rate,
            device,
            max_gradient_norm=config.max_gradient_norm,
            optimizer=torch.optim.RAdam,
        )
        self._config = config

    def update(self, rollout: QRollout, generator: np.random.Generator) -> dict[str, float]:
        """Several epochs of minibatches over the rollout; returns the last one's figures.

        Args:
            generator: of the minibatches.
        """
        config, live = self._config, rollout.live
        targets = self._tensor(self._returns(rollout)[live])  # (n,)
        observations = self._tensor(rows(rollout.observation[:-1][live]))
        actions = self._tensor(rollout.action[live])
        figures: dict[str, Tensor] = {}
        for _ in range(config.epochs):
            order = torch.from_numpy(generator.permutation(len(targets))).to(self._device)
            for part in torch.split(order, config.minibatch_size):
                figures = self._step(observations[part], actions[part], targets[part])
        return {name: figure.item() for name, figure in figures.items()}

    def _step(self, observations: Tensor, actions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        values = self.network(observations)  # (n, A)
        chosen = values.gather(1, actions.unsqueeze(1)).squeeze(1)  # (n,)
        loss = 0.5 * torch.nn.functional.mse_loss(chosen, targets)
        norm = self._descend(loss)
        return {
            "loss": loss.detach(),
            "q_mean": values.detach().mean(),
            "gradient_norm": norm,
        }

    def _returns(self, rollout: QRollout) -> Floats:
        # In NEXT_STEP mode the observation after an end is the last of its own episode, so
        # one pass over T + 1 observations gives the value that each step reached.
        steps, count = rollout.action.shape
        flat = rollout.observation.reshape(-1, *rollout.observation.shape[2:])
        values = self.q_values(flat).reshape(steps + 1, count, -1)
        if rollout.mask is not None:
            values = np.where(rollout.mask, values, -np.inf)
        best = values.max(axis=2)
        return q_lambda_returns(
            (rollout.reward / self._config.reward_scale).astype(np.float32),
            best[1:],
            rollout.terminated,
            rollout.terminated | rollout.truncated,
            self._config.discount,
            self._config.trace,
        )
