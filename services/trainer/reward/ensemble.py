"""An ensemble of small reward networks, run as one."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


class EnsembleLinear(nn.Module):
    """E linear layers side by side: (E, B, inputs) → (E, B, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """(E, B, inputs) → (E, B, outputs)"""
        return torch.baddbmm(self.bias, inputs, self.weight)


class Bump(nn.Module):
    """exp(-z²/2), the activation of radial basis functions.

    What people like often lies in the middle of something. Lines, which ReLU makes, go on past
    it wherever few labels say to stop; a bump ends by itself, and says nothing far away.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """(…) → (…), within (0, 1]"""
        return torch.exp(-0.5 * inputs.square())


class RewardEnsemble(nn.Module):
    """r(s, a) of each member: networks of an observation and a one-hot action.

    Observations are standardised, and rewards normalised, by constants that belong to the
    model, so that a reward means the same for as long as this version is used.

    Args:
        utility_scale: a segment is worth this times its mean reward.
        max_reward: normalised rewards are kept within ± this.
    """

    observation_mean: Tensor
    observation_std: Tensor
    reward_mean: Tensor
    reward_std: Tensor

    def __init__(
        self,
        observation_size: int,
        actions: int,
        members: int,
        hidden: tuple[int, ...],
        utility_scale: float = 10.0,
        max_reward: float = 3.0,
    ) -> None:
        super().__init__()
        self.utility_scale, self.max_reward = utility_scale, max_reward
        self.actions, self.members = actions, members
        sizes = (observation_size + actions, *hidden)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [EnsembleLinear(members, inputs, outputs), Bump()]
        self.layers = nn.Sequential(*layers, EnsembleLinear(members, sizes[-1], 1))
        self.log_tie = nn.Parameter(torch.full((members, 1), -1.0))
        self.register_buffer("observation_mean", torch.zeros(observation_size))
        self.register_buffer("observation_std", torch.ones(observation_size))
        self.register_buffer("reward_mean", torch.zeros(members, 1))
        self.register_buffer("reward_std", torch.ones(()))

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Unnormalised rewards: (B, observation size), (B,) → (E, B)"""
        standard = (observations - self.observation_mean) / self.observation_std
        one_hot = nn.functional.one_hot(actions, self.actions).to(standard.dtype)
        inputs = torch.cat([standard, one_hot], dim=1)  # (B, inputs)
        rewards: Tensor = self.layers(inputs.expand(self.members, -1, -1))  # (E, B, 1)
        return rewards.squeeze(-1)

    def standardise(self, observations: Tensor) -> None:
        """Take the observations' mean and spread, (B, observation size), as the model's own."""
        self.observation_mean.copy_(observations.mean(dim=0))
        self.observation_std.copy_(observations.std(dim=0).clamp_min(1e-3))

    def normalise(self, observations: Tensor, actions: Tensor) -> None:
        """Make the mean reward over these steps 0 and its spread 1.

        Members are centred one by one: preferences say nothing of what is added to all
        rewards, so members that differ in that do not disagree.
        """
        with torch.no_grad():
            rewards = self(observations, actions)  # (E, B)
        self.reward_mean.copy_(rewards.mean(dim=1, keepdim=True))
        self.reward_std.copy_(rewards.mean(dim=0).std().clamp_min(1e-6))

    def reward(
        self, observations: npt.NDArray[Any], actions: npt.NDArray[Any], pessimism: float = 0.0
    ) -> npt.NDArray[np.float32]:
        """Normalised reward: the members' mean less `pessimism` times their spread.

        Args:
            observations: (B, *shape)
            actions: (B,)

        Returns:
            (B,)
        """
        flat = torch.from_numpy(np.asarray(observations, np.float32).reshape(len(actions), -1))
        with torch.inference_mode():
            members = self(flat, torch.from_numpy(np.asarray(actions, np.int64)))
            members = members - self.reward_mean  # (E, B)
            spread = members.std(dim=0, correction=0) if pessimism else 0.0  # 0 for one member
            normal = (members.mean(dim=0) - pessimism * spread) / self.reward_std
            rewards: npt.NDArray[np.float32] = (
                normal.clamp(-self.max_reward, self.max_reward).float().numpy()
            )
        return rewards
