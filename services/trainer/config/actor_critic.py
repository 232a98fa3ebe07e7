"""Runs that learn an actor and critics: PPO, A2C, SAC, TD3."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from services.trainer.config.parts import (
    NetworkConfig,
    Positive,
    PositiveFloat,
    ReplayConfig,
    Share,
    Strict,
    TrainingConfig,
)


class ActorCriticNetworkConfig(NetworkConfig):
    """Perceptrons of one form for the actor and for each critic.

    `normalise_observations`: by their running mean and standard deviation, which the exported
    policy carries.
    """

    activation: Literal["relu", "tanh"] = "relu"
    normalise_observations: bool = False

    @model_validator(mode="after")
    def _fits(self) -> ActorCriticNetworkConfig:
        if not self.hidden:
            raise ValueError("network.hidden is empty, expected the width of at least one layer")
        if self.image is not None and (self.normalise_observations or self.image.norm == "batch"):
            raise ValueError(
                "network.image of an actor and critic goes with norm layer or none, and without "
                "normalise_observations: its pictures are seen as they are"
            )
        return self


class OnPolicyConfig(Strict):
    """What PPO and A2C share.

    `normalise_rewards`: by the running standard deviation of the discounted return.
    `initial_log_std`: of a Gaussian policy, in units in which an action's bounds are ±1.
    """

    total_env_steps: Positive = 100_000
    learning_rate: PositiveFloat = 1e-3
    anneal_learning_rate: bool = True
    rollout_steps: Annotated[Positive, Field(description="Per environment.")] = 32
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.98
    gae_lambda: Share = 0.8
    value_coefficient: Annotated[float, Field(ge=0)] = 0.5
    entropy_coefficient: Annotated[float, Field(ge=0)] = 0.0
    max_gradient_norm: PositiveFloat = 0.5
    normalise_rewards: bool = False
    initial_log_std: float = 0.0


class PPOConfig(OnPolicyConfig):
    """Proximal policy optimisation (Schulman et al. 2017), clipped."""

    epochs: Positive = 10
    minibatch_size: Positive = 256
    clip_range: PositiveFloat = 0.2


class A2CConfig(OnPolicyConfig):
    """Advantage actor-critic (Mnih et al. 2016), synchronous."""

    rollout_steps: Annotated[Positive, Field(description="Per environment.")] = 8
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    gae_lambda: Share = 1.0


class TwinCriticsConfig(Strict):
    """What SAC and TD3 share.

    `noise_hold`: mean number of steps that a draw of exploring noise lasts; 1: independent.
    `reward_factor`: rewards are multiplied by it.
    """

    total_env_steps: Positive = 100_000
    learning_rate: PositiveFloat = 3e-4
    batch_size: Positive = 256
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    n_step: Positive = 1
    env_steps_per_update: PositiveFloat = 1.0
    target_tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    noise_hold: Annotated[float, Field(ge=1)] = 1.0
    reward_factor: PositiveFloat = 1.0


class SACConfig(TwinCriticsConfig):
    """Soft actor-critic, for actions in a Box (Haarnoja et al. 2018) or Discrete ones
    (Christodoulou 2019).

    The temperature is learnt so that the entropy is `target_entropy_scale` times -1 nat for each
    element of a Box, or times the most that Discrete actions have.
    """

    initial_temperature: PositiveFloat = 1.0
    learn_temperature: bool = True
    target_entropy_scale: PositiveFloat = 1.0
    initial_log_std: float = 0.0


class TD3Config(TwinCriticsConfig):
    """Twin delayed DDPG (Fujimoto et al. 2018). Noise is in units in which bounds are ±1."""

    learning_rate: PositiveFloat = 1e-3
    policy_delay: Annotated[Positive, Field(description="Updates of critics for one of it.")] = 2
    exploration_noise: Annotated[float, Field(ge=0)] = 0.1
    target_noise: Annotated[float, Field(ge=0)] = 0.2
    target_noise_clip: Annotated[float, Field(ge=0)] = 0.5


class PPORun(TrainingConfig):
    """Trains with PPO; rollouts stay in memory."""

    algorithm: Literal["ppo"]
    network: ActorCriticNetworkConfig = ActorCriticNetworkConfig()
    ppo: PPOConfig = PPOConfig()

    @property
    def rates(self) -> PPOConfig:
        """What the algorithm is set to."""
        return self.ppo


class A2CRun(TrainingConfig):
    """Trains with A2C; rollouts stay in memory."""

    algorithm: Literal["a2c"]
    network: ActorCriticNetworkConfig = ActorCriticNetworkConfig()
    a2c: A2CConfig = A2CConfig()

    @property
    def rates(self) -> A2CConfig:
        """What the algorithm is set to."""
        return self.a2c


class SACRun(TrainingConfig):
    """Trains with SAC through the Redis replay."""

    algorithm: Literal["sac"]
    network: ActorCriticNetworkConfig = ActorCriticNetworkConfig(hidden=(256, 256))
    replay: ReplayConfig = ReplayConfig()
    sac: SACConfig = SACConfig()

    @property
    def rates(self) -> SACConfig:
        """What the algorithm is set to."""
        return self.sac

    @model_validator(mode="after")
    def _fits(self) -> SACRun:
        self.replay.check_reached()
        self.replay.check_alone(self.deterministic)
        _check_plain(self.network)
        return self


class TD3Run(TrainingConfig):
    """Trains with TD3 through the Redis replay."""

    algorithm: Literal["td3"]
    network: ActorCriticNetworkConfig = ActorCriticNetworkConfig(hidden=(256, 256))
    replay: ReplayConfig = ReplayConfig()
    td3: TD3Config = TD3Config()

    @property
    def rates(self) -> TD3Config:
        """What the algorithm is set to."""
        return self.td3

    @model_validator(mode="after")
    def _fits(self) -> TD3Run:
        self.replay.check_reached()
        self.replay.check_alone(self.deterministic)
        _check_plain(self.network)
        return self


def _check_plain(network: ActorCriticNetworkConfig) -> None:
    if network.image is not None:
        raise ValueError(
            "network.image is for ppo and a2c, whose actor and critic share what sees; the critics "
            "of sac and td3 have none yet"
        )
    if network.normalise_observations:
        raise ValueError(
            "network.normalise_observations is for ppo and a2c: what is in a replay was not "
            "normalised alike; use network.observation_scale"
        )
