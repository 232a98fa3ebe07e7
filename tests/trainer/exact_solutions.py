"""Exact values of finite Markov decision processes, from their own transition model."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Model:
    """p(s'|s, a) and r(s, a) of a toy-text environment; states that end an episode lead nowhere.

    transitions: (S, A, S), rows that sum to less than 1 where an episode may end.
    rewards: (S, A) expected.
    start: (S,) distribution.
    """

    def __init__(self, environment: str, **kwargs: Any) -> None:
        env = gym.make(environment, **kwargs).unwrapped
        states, actions = int(env.observation_space.n), int(env.action_space.n)
        self.transitions = np.zeros((states, actions, states))
        self.rewards = np.zeros((states, actions))
        for state, by_action in env.P.items():
            for action, outcomes in by_action.items():
                for probability, following, reward, terminated in outcomes:
                    self.rewards[state, action] += probability * reward
                    if not terminated:
                        self.transitions[state, action, following] += probability
        self.start: Floats = env.initial_state_distrib

    def optimal(self, discount: float) -> Floats:
        """Q* by value iteration, (S, A)."""
        values = np.zeros_like(self.rewards)
        while True:
            following = self.rewards + discount * self.transitions @ values.max(axis=1)
            if np.abs(following - values).max() < 1e-10:
                return following
            values = following

    def of_policy(self, policy: Floats, discount: float) -> Floats:
        """Q of a policy (S, A) of probabilities, by solving Bellman's linear equations."""
        states = len(policy)
        moves = np.einsum("sa,sat->st", policy, self.transitions)
        rewards = (policy * self.rewards).sum(axis=1)
        state_values = np.linalg.solve(np.eye(states) - discount * moves, rewards)
        return self.rewards + discount * self.transitions @ state_values


def epsilon_greedy(values: Floats, epsilon: float) -> Floats:
    """Probabilities (S, A): ties for the best share what is not explored."""
    best = values == values.max(axis=1, keepdims=True)
    policy: Floats = epsilon / values.shape[1] + (1 - epsilon) * best / best.sum(
        axis=1, keepdims=True
    )
    return policy
