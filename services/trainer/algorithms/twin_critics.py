"""What SAC and TD3 share: an actor, two critics and their slow copies, improved off policy.

The two critics are one stacked network, and all updates are few calls on many tensors: with
networks of this size, calls cost as much as arithmetic.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from services.common.replay import Batch
from services.trainer import acting
from services.trainer.actor_critic import Policy
from services.trainer.algorithms.state import join, optimizer_tensors, restore_optimizer, split
from services.trainer.config import TwinCriticsConfig
from services.trainer.heads import Head
from services.trainer.observations import rows
from services.trainer.stacked import StackedMLP

Array = npt.NDArray[Any]
FIGURES_PERIOD = 100  # updates; reading figures waits for the device


class TwinCriticsLearner(ABC):
    """Learns from batches of n-step transitions of the replay.

    Args:
        actor: (B, *observation) → (B, P), the parameters of `head`.
        critics: two of them stacked.
        generator: of the noise in updates.
    """

    def __init__(
        self,
        actor: Policy,
        head: Head,
        critics: StackedMLP,
        config: TwinCriticsConfig,
        device: torch.device,
        generator: np.random.Generator,
    ) -> None:
        self.network, self.head = actor.to(device), head.to(device)
        self.critics = critics.to(device)
        self.updates = 0
        self._acting = self.network.acting()
        self._rates, self._device, self._generator = config, device, generator
        self._slow_critics = copy.deepcopy(self.critics).requires_grad_(False)
        # The same critics, through which gradients flow to actions but not into weights.
        self._judging_critics = _without_gradients(self.critics)
        self._actor_parameters = list(self.network.parameters())
        self._critic_parameters = list(self.critics.parameters())
        self._slow = list[tuple[list[Tensor], list[Tensor]]]()
        self._follow_with(self._slow_critics, self.critics)

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, float]:
        """One gradient step; its figures, but only after every hundredth."""

    @abstractmethod
    def groups(self) -> dict[str, Mapping[str, Tensor]]:
        """Tensors to keep beside those of the actor and the critics, by group."""

    @property
    @abstractmethod
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """By the name under which they are kept."""

    @abstractmethod
    def restore_groups(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `groups` gave."""

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the updates to come."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def parameters(self, observations: Array) -> npt.NDArray[np.float32]:
        """The policy's parameters: (B, *shape) → (B, P)"""
        if self._acting is not None:
            return acting.run(self._acting, rows(observations))
        with torch.inference_mode():
            parameters: npt.NDArray[np.float32] = (
                self.network(self._seen(observations)).cpu().numpy()
            )
        return parameters

    def greedy(self, observations: Array) -> Array:
        """(B, *shape) → (B, *action), as the environment takes them."""
        with torch.inference_mode():
            parameters = self.network(self._seen(observations))
            actions: Array = self.head.greedy(parameters).cpu().numpy()
        return actions

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by dotted name."""
        kept = {name: optimizer_tensors(optimizer) for name, optimizer in self.optimizers.items()}
        return join(
            network=self.network.state_dict(),
            critics=self.critics.state_dict(),
            slow_critics=self._slow_critics.state_dict(),
            **self.groups(),
            **kept,
        )

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        self.network.load_state_dict(split(tensors, "network"))
        self.critics.load_state_dict(split(tensors, "critics"))
        self._slow_critics.load_state_dict(split(tensors, "slow_critics"))
        self.restore_groups(tensors)
        for name, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, split(tensors, name))
        self.updates = updates

    def _adam(self, parameters: Sequence[Tensor]) -> torch.optim.Adam:
        return torch.optim.Adam(list(parameters), lr=self._rates.learning_rate, fused=True)

    def _follow_with(self, slow: nn.Module, quick: nn.Module) -> None:
        self._slow.append((list(slow.parameters()), list(quick.parameters())))

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the slow copies a little of the way to what they copy."""
        for slow, quick in self._slow:
            torch._foreach_lerp_(slow, quick, self._rates.target_tau)

    def _normal(self, count: int, size: int) -> Tensor:
        return self._tensor(self._generator.standard_normal((count, size), dtype=np.float32))

    def _seen(self, observations: Any) -> Tensor:
        return self._tensor(rows(observations))

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One gradient step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _without_gradients(critics: StackedMLP) -> StackedMLP:
    shared = copy.deepcopy(critics).requires_grad_(False)
    for mine, its in zip(shared.parameters(), critics.parameters(), strict=True):
        mine.data = its.data
    return shared
