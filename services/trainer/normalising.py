"""Running means and standard deviations, of observations and of returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

LIMIT = 10.0  # standard deviations beyond which numbers are clipped
_LEAST_VARIANCE = 1e-8
Floats = npt.NDArray[np.floating]


class RunningMoments:
    """Mean and variance of all that was seen, element by element (Chan et al. 1983).

    Args:
        shape: of what is seen.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0.0
        self.mean: npt.NDArray[np.float64] = np.zeros(shape)
        self.variance: npt.NDArray[np.float64] = np.ones(shape)

    def update(self, batch: Floats) -> None:
        """Take in a batch (n, *shape), n ≥ 1."""
        seen, total = len(batch), self.count + len(batch)
        difference = batch.mean(axis=0, dtype=np.float64) - self.mean
        squares = self.variance * self.count + batch.var(axis=0, dtype=np.float64) * seen
        squares += difference**2 * (self.count * seen / total)
        self.mean = self.mean + difference * (seen / total)
        self.variance, self.count = squares / total, total


class Normaliser(nn.Module):
    """Observations by their running mean and standard deviation, in the network so that exports
    carry it. The first ones pass as they are.

    Args:
        size: of a flat observation.
    """

    mean: Tensor
    scale: Tensor
    moments: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        seen = torch.zeros(3, size, dtype=torch.float64)  # count, mean, variance
        self.register_buffer("moments", seen)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, size) → (B, size)"""
        return ((observations - self.mean) * self.scale).clamp(-LIMIT, LIMIT)

    def update(self, observations: Floats) -> None:
        """Take in observations (n, …)."""
        running = RunningMoments(tuple(self.mean.shape))
        count, running.mean, running.variance = self.moments.cpu().numpy()
        running.count = float(count[0])
        running.update(observations.reshape(len(observations), -1))
        known = np.stack([np.full_like(count, running.count), running.mean, running.variance])
        self.moments.copy_(torch.from_numpy(known))
        self.mean.copy_(self.moments[1])
        self.scale.copy_(torch.rsqrt(self.moments[2] + _LEAST_VARIANCE))


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return so far
    (Engstrom et al. 2020), clipped.

    Args:
        num_envs: whose returns are followed.
    """

    def __init__(self, num_envs: int, discount: float) -> None:
        self._discount, self._moments = discount, RunningMoments()
        self._returns: npt.NDArray[np.float64] = np.zeros(num_envs)

    def scale(
        self,
        rewards: npt.NDArray[np.float32],
        ended: npt.NDArray[np.bool_],
        live: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.float32]:
        """Rewards (T, N) of a rollout, scaled by all returns up to its end.

        Args:
            ended: (T, N) the episode ended with the step.
            live: (T, N) false where an environment was being reset.
        """
        so_far = np.zeros(rewards.shape)
        for t, reward in enumerate(rewards):
            self._returns = self._discount * self._returns + np.where(live[t], reward, 0)
            so_far[t] = self._returns
            self._returns = np.where(ended[t], 0, self._returns)
        self._moments.update(so_far[live])
        return np.clip(rewards / self.deviation, -LIMIT, LIMIT).astype(np.float32)

    @property
    def deviation(self) -> np.float64:
        """What rewards are divided by now."""
        return np.float64(np.sqrt(self._moments.variance + _LEAST_VARIANCE))

    def state(self) -> dict[str, Any]:
        """Plain data to go on from; environments begin anew, and so do their returns."""
        moments = self._moments
        return {
            "count": moments.count,
            "mean": float(moments.mean),
            "variance": float(moments.variance),
        }

    def arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """Returns of the episodes under way, for `put_back`."""
        return {"returns": self._returns}

    def put_back(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on with what `arrays` gave."""
        self._returns = arrays["returns"].copy()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._moments.count = state["count"]
        self._moments.mean = np.array(state["mean"])
        self._moments.variance = np.array(state["variance"])
