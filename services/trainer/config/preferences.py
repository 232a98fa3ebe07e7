"""Runs that show people what a policy does, and learn from what they say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from services.trainer.config.actor_critic import PPOConfig
from services.trainer.config.parts import (
    Name,
    NetworkConfig,
    Positive,
    PositiveFloat,
    RunConfig,
    Share,
    Strict,
    TrainingConfig,
)


class FineTuningConfig(PPOConfig):
    """PPO on rewards that people's preferences have gone into."""

    total_env_steps: Positive = 131_072
    learning_rate: PositiveFloat = 2e-3
    epochs: Positive = 6
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    gae_lambda: Share = 0.95
    reward_scale: Annotated[PositiveFloat, Field(description="Divides rewards.")] = 30.0


class RecordingConfig(Strict):
    """Segments of behaviour for people to compare, chosen to differ from among many.

    In each episode the policy errs with an ε drawn for it, from 0 to `max_epsilon` and small
    more often than large; an erring action is held for `repeat` steps in the mean. It also
    misreads what it sees, by an offset drawn for the episode; `misreading` is the offsets'
    standard deviation, in standard deviations of what it sees when it does not. In the first
    few episodes it reads everything right.
    """

    segments: Annotated[int, Field(ge=0)] = 60
    length: Positive = 50
    episodes: Annotated[Positive, Field(description="Played to choose segments from.")] = 64
    max_epsilon: Share = 0.1
    repeat: Annotated[float, Field(ge=1)] = 4.0
    misreading: Annotated[float, Field(ge=0)] = 1.0


class SegmentsRun(RunConfig):
    """Records segments of a published policy and uploads them with their clips."""

    algorithm: Literal["segments"]
    aliases: Annotated[
        tuple[Name, ...],
        Field(min_length=1, description="Each episode is played by one of these, drawn evenly."),
    ] = ("stable",)
    recording: RecordingConfig = RecordingConfig()


class RewardConfig(Strict):
    """An ensemble of reward models fitted to preferences, and the gate it must pass."""

    members: Positive = 4
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32, 32)
    learning_rate: PositiveFloat = 3e-3
    weight_penalty: Annotated[
        float, Field(ge=0, description="L2; keeps what preferences do not depend on out of it.")
    ] = 0.003
    utility_scale: Annotated[
        PositiveFloat, Field(description="Utility of a segment: this times its mean reward.")
    ] = 10.0
    max_reward: Annotated[
        PositiveFloat, Field(description="Rewards are kept within this many deviations.")
    ] = 3.0
    epochs: Positive = 250
    label_noise: Share = 0.1
    min_preferences: Positive = 50
    min_accuracy: Share = 0.75
    max_calibration_error: Share = 0.2
    bins: Positive = 5


class LeashConfig(Strict):
    """KL control towards the deployed policy (Jaques et al. 2017; Ziegler et al. 2019).

    temperature: weight τ of the leash, in units of reward: r' = r - τ·log(π(a|s) / π₀(a|s)).
    prior_temperature: π₀ = softmax(q₀ / prior_temperature). Unset: the median lead of the
        deployed policy's best action over its second, so that π₀ is neither certain nor blind.
    floor: log π₀ is never below this: no action is ruled out for good.
    """

    temperature: PositiveFloat = 0.03
    prior_temperature: PositiveFloat | None = None
    floor: Annotated[float, Field(lt=0)] = -4.0


class RLHFRun(TrainingConfig):
    """Fits a reward model to the preferences and fine-tunes the deployed policy with it."""

    algorithm: Literal["dqn-rlhf"]
    network: Annotated[
        NetworkConfig, Field(description="Of the correction to the deployed policy.")
    ] = NetworkConfig()
    base_alias: Name = "stable"
    publish_alias: Name = "canary"
    tuning: FineTuningConfig = FineTuningConfig()
    reward: RewardConfig = RewardConfig()
    leash: LeashConfig = LeashConfig()
    recording: Annotated[
        RecordingConfig,
        Field(description="Of policies met on the way, for the labels to come; 0 segments: none."),
    ] = RecordingConfig()
    environment_reward_weight: Annotated[float, Field(ge=0)] = 1.0
    learned_reward_weight: Annotated[float, Field(ge=0)] = 6.0
    pessimism: Annotated[
        float, Field(ge=0, description="Standard deviations of the ensemble taken off.")
    ] = 0.0
    min_return: Annotated[
        float, Field(description="Candidates that return less are not published.")
    ] = 0.0

    @model_validator(mode="after")
    def _learns_from_people(self) -> RLHFRun:
        if self.deterministic:
            raise ValueError(
                "deterministic is for runs that learn from an environment alone: what people "
                "label meanwhile cannot be repeated"
            )
        return self
