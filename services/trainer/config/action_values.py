"""Runs that learn action values: DQN and its family, PQN, tables."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from services.trainer.config.parts import (
    EpsilonConfig,
    NetworkConfig,
    Positive,
    PositiveFloat,
    ReplayConfig,
    Share,
    Strict,
    TrainingConfig,
)


class QNetworkConfig(NetworkConfig):
    """A perceptron of action values.

    With `dueling`, the last hidden layer is there twice: for the state's value, and for the
    advantages of actions.
    """

    dueling: Annotated[bool, Field(description="Wang et al. 2016.")] = False
    noisy: Annotated[
        bool,
        Field(description="Noise that is learnt in all linear layers (Fortunato et al. 2018)."),
    ] = False
    quantiles: Annotated[
        int,
        Field(ge=0, description="Of each action's return (QR-DQN); 0: its mean alone."),
    ] = 0

    @model_validator(mode="after")
    def _duels_in_a_layer(self) -> QNetworkConfig:
        if self.dueling and not self.hidden:
            raise ValueError("network.dueling splits the last of network.hidden, which is empty")
        return self


class Bootstrap(StrEnum):
    """What a target says of the state that was reached; see `algorithms.dqn`."""

    Q_LEARNING = "q-learning"
    DOUBLE = "double"
    SARSA = "sarsa"
    EXPECTED_SARSA = "expected-sarsa"


class Loss(StrEnum):
    """Of a TD error: quadratic within huber_delta and linear outside, or linear throughout."""

    HUBER = "huber"
    L1 = "l1"


class PriorityConfig(Strict):
    """Prioritised replay (Schaul et al. 2016). β goes to its final value in a straight line."""

    exponent: Annotated[Share, Field(description="α; 0 is uniform.")] = 0.6
    importance_sampling_exponent: Annotated[Share, Field(description="β at the start.")] = 0.4
    final_importance_sampling_exponent: Share = 1.0


class DQNConfig(Strict):
    """Deep Q-learning (Mnih et al. 2015) and its family, with n-step returns.

    Every `target_update_period` updates the target network moves by the share `target_tau` of
    the way to the network: 1 copies it. Gradients are clipped by their norm, or each by its value.
    """

    total_env_steps: Positive = 50_000
    learning_rate: PositiveFloat = 1e-3
    final_learning_rate: Annotated[
        PositiveFloat | None, Field(description="Reached in a straight line; unset: no change.")
    ] = None
    batch_size: Positive = 64
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    n_step: Positive = 1
    bootstrap: Bootstrap = Bootstrap.DOUBLE
    loss: Loss = Loss.HUBER
    huber_delta: PositiveFloat = 1.0
    max_gradient_norm: PositiveFloat | None = 10.0
    max_gradient_value: PositiveFloat | None = None
    target_update_period: Annotated[Positive, Field(description="In updates.")] = 250
    target_tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    env_steps_per_update: PositiveFloat = 1.0
    reward_scale: PositiveFloat = 1.0
    priorities: Annotated[
        PriorityConfig | None, Field(description="Unset: every step is equally likely.")
    ] = None
    epsilon: EpsilonConfig = EpsilonConfig()

    @model_validator(mode="after")
    def _fits(self) -> DQNConfig:
        if (self.max_gradient_norm is None) == (self.max_gradient_value is None):
            raise ValueError(
                "gradients are clipped by max_gradient_norm or by max_gradient_value: set one "
                "and leave the other null"
            )
        if self.target_tau < 1 and self.target_update_period > 1:
            raise ValueError(
                f"target_tau {self.target_tau} moves the target a little at each update: it needs "
                f"target_update_period 1, not {self.target_update_period}"
            )
        return self


class PQNConfig(Strict):
    """Parallel Q-learning (Gallici et al. 2024): Q(λ) on rollouts, no replay and no target."""

    total_env_steps: Positive = 200_000
    learning_rate: PositiveFloat = 1e-3
    final_learning_rate: Annotated[
        PositiveFloat | None, Field(description="Reached in a straight line; unset: no change.")
    ] = None
    rollout_steps: Annotated[Positive, Field(description="Per environment.")] = 32
    epochs: Positive = 4
    minibatch_size: Positive = 128
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    trace: Annotated[Share, Field(description="λ.")] = 0.65
    max_gradient_norm: PositiveFloat = 10.0
    reward_scale: PositiveFloat = 1.0
    epsilon: EpsilonConfig = EpsilonConfig()


class TabularUpdate(StrEnum):
    """What a step's target says of the state that follows."""

    Q_LEARNING = "q-learning"
    SARSA = "sarsa"
    EXPECTED_SARSA = "expected-sarsa"


class TabularConfig(Strict):
    """Action values in a table; see `algorithms.tabular`."""

    total_env_steps: Positive = 100_000
    update: TabularUpdate = TabularUpdate.Q_LEARNING
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    learning_rate_power: Annotated[
        float, Field(ge=0, le=1, description="How it falls with visits; 0: not at all.")
    ] = 0.6
    final_learning_rate: Annotated[float, Field(ge=0, le=1, description="Its floor.")] = 0.0
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    initial_value: float = 0.0
    epsilon: EpsilonConfig = EpsilonConfig(start=1.0, end=0.1, decay=20_000)


class DQNRun(TrainingConfig):
    """Trains with DQN through the Redis replay."""

    algorithm: Literal["dqn"]
    network: QNetworkConfig = QNetworkConfig()
    replay: ReplayConfig = ReplayConfig()
    dqn: DQNConfig = DQNConfig()

    @model_validator(mode="after")
    def _fits(self) -> DQNRun:
        self.replay.check_reached()
        self.replay.check_alone(self.deterministic)
        if self.network.image is not None and self.network.image.norm == "batch":
            self._fits_batch_norm()
        if self.dqn.bootstrap in (Bootstrap.SARSA, Bootstrap.EXPECTED_SARSA):
            self._fits_sarsa(self.dqn.bootstrap.value)
        return self

    def _fits_batch_norm(self) -> None:
        if self.network.noisy or self.network.quantiles:
            raise ValueError("network.image.norm batch goes with neither noisy nor quantiles")
        if self.dqn.target_tau < 1:
            raise ValueError(
                "network.image.norm batch needs dqn.target_tau 1: its running means are copied to "
                "the target, not moved towards"
            )

    def _fits_sarsa(self, name: str) -> None:
        if self.network.quantiles:
            raise ValueError(
                f"network.quantiles needs dqn.bootstrap q-learning or double: {name} mixes the "
                "returns of several actions, whose quantiles are not the mean of theirs"
            )
        if self.network.noisy:
            raise ValueError(
                f"network.noisy needs dqn.bootstrap q-learning or double: {name} takes the mean "
                "over an ε-greedy policy, and noisy networks explore in another way"
            )


class PQNRun(TrainingConfig):
    """Trains with PQN; rollouts stay in memory."""

    algorithm: Literal["pqn"]
    network: QNetworkConfig = QNetworkConfig(layer_norm=True)
    pqn: PQNConfig = PQNConfig()

    @model_validator(mode="after")
    def _fits(self) -> PQNRun:
        if not self.network.layer_norm:
            raise ValueError(
                "network.layer_norm must be true: without a target network, it is what keeps "
                "PQN from diverging"
            )
        if self.network.image is not None and self.network.image.norm != "layer":
            raise ValueError("network.image.norm must be layer, for the same reason")
        if self.network.noisy or self.network.quantiles:
            raise ValueError("PQN learns mean values and explores by ε: no noisy, no quantiles")
        return self


class TabularRun(TrainingConfig):
    """Trains a table of action values, for environments whose states can be counted."""

    algorithm: Literal["tabular"]
    tabular: TabularConfig = TabularConfig()
