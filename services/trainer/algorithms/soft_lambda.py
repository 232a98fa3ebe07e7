"""Soft Q-learning with λ-returns over the newest rows of a replay.

Where a step changes little, as at 50 steps a second, one action's part in a value is small
beside the error of a bootstrapped one; returns over many steps tell actions apart sooner.
Returns are computed for a whole window at once and learnt from in minibatches, until enough
new rows have come (Daley & Amato 2019, "Reconciling λ-Returns with Experience Replay").
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from services.common.replay.window import Window
from services.trainer.algorithms.q_learner import QLearner
from services.trainer.config import FineTuningConfig
from services.trainer.losses import td_loss
from services.trainer.returns import Floats, lambda_returns


class SoftLambdaLearner(QLearner):
    """Learns soft action values, whose policy is softmax(q / temperature).

    Args:
        network: (B, *observation) → (B, actions); parameters that need no gradient stay.
        temperature: of the policy, in the units of scaled rewards.
    """

    def __init__(
        self,
        network: nn.Module,
        config: FineTuningConfig,
        temperature: float,
        device: torch.device,
    ) -> None:
        super().__init__(
            network, config.learning_rate, device, max_gradient_norm=config.max_gradient_norm
        )
        self._config, self._temperature = config, temperature

    def learn(self, window: Window, generator: np.random.Generator) -> dict[str, float]:
        """Learn from minibatches of the window; the last one's figures."""
        config = self._config
        returns = self._tensor(self._returns(window))
        observations = self._tensor(window.observation)
        actions = self._tensor(window.action).long()
        for _ in range(config.updates_per_refresh):
            drawn = torch.from_numpy(generator.integers(0, len(window), config.batch_size))
            part = drawn.to(self._device)
            values = self.network(observations[part])  # (B, A)
            loss = td_loss(values, actions[part], returns[part], config.huber_delta)
            norm = self._descend(loss)
        return {
            "loss": loss.item(),
            "q_mean": values.detach().mean().item(),
            "gradient_norm": norm.item(),
        }

    def _returns(self, window: Window) -> Floats:
        config = self._config
        with torch.no_grad():
            values = self.network(self._tensor(window.next_observation))  # (W, A)
            soft = self._temperature * torch.logsumexp(values / self._temperature, dim=1)
        return lambda_returns(
            (window.reward / config.reward_scale).astype(np.float32),
            soft.cpu().numpy(),
            window.terminated,
            window.successor,
            config.discount,
            config.trace,
            config.horizon,
        )
