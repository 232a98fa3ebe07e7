"""What PPO and A2C share: an actor and a critic that act, judge and are improved on rollouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from services.trainer import acting
from services.trainer.actor_critic import ActorCritic, LeashedActorCritic
from services.trainer.algorithms.state import join, optimizer_tensors, restore_optimizer, split
from services.trainer.config import OnPolicyConfig
from services.trainer.gradients import ADAM, FlatDescent
from services.trainer.heads import head_of
from services.trainer.observations import rows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RolloutBatch:
    """Steps of a rollout, flattened; B of them.

    observation: (B, *shape)
    action: (B, …) in the units of the policy's head.
    log_probability: (B,) of the action when it was chosen.
    advantage, value_target: (B,)
    """

    observation: Array
    action: Array
    log_probability: npt.NDArray[np.float32]
    advantage: npt.NDArray[np.float32]
    value_target: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.advantage)


class ActorCriticLearner(ABC):
    """An actor and a critic, improved on one rollout at a time.

    value_scale: what the rewards it learns from were divided by.
    """

    value_scale = 1.0

    def __init__(
        self,
        network: ActorCritic | LeashedActorCritic,
        config: OnPolicyConfig,
        device: torch.device,
    ) -> None:
        self.actor_critic = network.to(device)
        self.head = head_of(network.spec).to(device)
        self.updates = 0
        self._rates, self._device = config, device
        learnt = [p for p in network.parameters() if p.requires_grad]
        self._adam = FlatDescent(
            learnt,
            config.learning_rate,
            partial(ADAM, eps=1e-5),
            max_norm=config.max_gradient_norm,
        )
        self._acting = self.actor_critic.acting()

    @property
    def network(self) -> nn.Module:
        """The policy alone, which is judged and exported; with its values, if its spec says so."""
        network = self.actor_critic
        if isinstance(network, ActorCritic) and network.spec.valued:
            return network.valued_policy(self.value_scale)
        return network.policy()

    @abstractmethod
    def update(self, batch: RolloutBatch, generator: np.random.Generator) -> dict[str, float]:
        """Learn from a rollout; the figures of what was done last."""

    def anneal(self, share_done: float) -> None:
        """Set the learning rate for this share of the run done, in [0, 1]."""
        if self._rates.anneal_learning_rate:
            self._adam.set_learning_rate(self._rates.learning_rate * (1 - share_done))

    def observe(self, observations: Array) -> None:
        """Have observations (n, *shape) shift what others are normalised by, where they are."""
        self.actor_critic.observe(self._seen(observations).float())

    def parameters(self, observations: Array) -> npt.NDArray[np.float32]:
        """The policy's parameters: (B, *shape) → (B, P)"""
        if self._acting is not None:
            return acting.run(self._acting, rows(observations))
        with torch.inference_mode():
            parameters: npt.NDArray[np.float32] = (
                self.actor_critic.parameters_of(self._seen(observations)).cpu().numpy()
            )
        return parameters

    def log_probabilities(self, parameters: Array, actions: Array) -> npt.NDArray[np.float32]:
        """Of actions in the head's units: (B, P), (B, …) → (B,)"""
        with torch.inference_mode():
            chances = self.head.log_probability(self._tensor(parameters), self._tensor(actions))
            each: npt.NDArray[np.float32] = chances.cpu().numpy()
        return each

    def values(self, observations: Array) -> npt.NDArray[np.float32]:
        """(B, *shape) → (B,)"""
        with torch.inference_mode():
            values: npt.NDArray[np.float32] = (
                self.actor_critic.value(self._seen(observations)).cpu().numpy()
            )
        return values

    def greedy(self, observations: Array) -> Array:
        """(B, *shape) → (B, *action), as the environment takes them."""
        parameters = self._tensor(self.parameters(observations))
        with torch.inference_mode():
            actions: Array = self.head.greedy(parameters).cpu().numpy()
        return actions

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by dotted name."""
        return join(
            network=self.actor_critic.state_dict(),
            optimizer=optimizer_tensors(self._adam.optimizer),
        )

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what `tensors` gave."""
        self.actor_critic.load_state_dict(split(tensors, "network"))
        restore_optimizer(self._adam.optimizer, split(tensors, "optimizer"))
        self.updates = updates

    def _entropy_term(self, parameters: Tensor) -> Tensor | float:
        coefficient = self._rates.entropy_coefficient
        return coefficient * self.head.entropy(parameters).mean() if coefficient else 0.0

    def _seen(self, observations: Array) -> Tensor:
        return self._tensor(rows(observations))

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
