"""A run is a configuration and a seed. Unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from services.common.errors import InvalidConfig

Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
PRESETS = resources.files("services.trainer") / "presets"


class Strict(BaseModel):
    """A part of a configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EnvironmentConfig(Strict):
    """Which environment, and how many copies are stepped at once."""

    id: Annotated[str, Field(description="Gymnasium id, such as CartPole-v1.")]
    num_envs: Positive = 8
    kwargs: dict[str, Any] = {}
    action_masks: Annotated[
        bool, Field(description="Obey masks, where the environment gives some and DQN acts.")
    ] = True


class NetworkConfig(Strict):
    """A multilayer perceptron."""

    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64, 64)
    layer_norm: bool = False
    observation_scale: Annotated[
        tuple[PositiveFloat, ...],
        Field(description="Divides each observation element; empty: as they come."),
    ] = ()


class ActorCriticNetworkConfig(NetworkConfig):
    """Perceptrons of one form for the actor and for each critic.

    `normalise_observations`: by their running mean and standard deviation, which the exported
    policy carries.
    """

    activation: Literal["relu", "tanh"] = "relu"
    normalise_observations: bool = False


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


class ReplayConfig(Strict):
    """The replay in Redis; its name is the run's unless given.

    Each environment closes its part of a chunk with a row for the state reached last, which
    takes room in the ring too: with n steps of each in a chunk, n of n + 1 rows are steps.
    """

    capacity: Annotated[Positive, Field(description="Rows, of steps and closing ones.")] = 100_000
    min_replay_size: Annotated[Positive, Field(description="Steps.")] = 1_000
    chunk_rows: Annotated[Positive, Field(description="Least steps appended at once.")] = 16
    name: str = ""
    frame_stack: Annotated[
        Positive,
        Field(
            description="How many frames an observation stacks on its first axis, oldest first "
            "and at an episode's start the first one again, as FrameStackObservation does. Each "
            "is then stored once. 1: observations are stored as they come."
        ),
    ] = 1

    def check_reached(self) -> None:
        """Refuse a size to begin at that there is no room for.

        Raises:
            ValueError: naming both.
        """
        if self.min_replay_size > self.capacity:
            raise ValueError(
                f"replay.min_replay_size {self.min_replay_size} is never reached with "
                f"replay.capacity {self.capacity}"
            )


class EvaluationConfig(Strict):
    """When the greedy policy is judged, and what happens then.

    A version is published when its evaluation beats the last published one of the run by
    `publish_margin` times the range of returns seen. One that reaches `goal_return`, and again
    on `confirm_episodes` fresh episodes, is confirmed; after `confirmations` of them the run
    is done. Among confirmed ones, those are better that return more when a share
    `disturbance` of their actions is replaced by random ones.
    """

    period: Annotated[Positive, Field(description="Environment steps between evaluations.")] = 2_500
    episodes: Positive = 20
    confirm_episodes: Positive = 100
    goal_return: float | None = None
    confirmations: Positive = 1
    disturbance: Share = 0.2
    publish_margin: Share = 0.1


class CheckpointConfig(Strict):
    """How often a run makes its state durable, and how many states it keeps."""

    period: Annotated[Positive, Field(description="Environment steps between checkpoints.")] = 5_000
    keep: Positive = 3


class EpsilonConfig(Strict):
    """ε-greedy exploration.

    ε decays exponentially from `start` to `end` with the number of environment steps, with
    time constant `decay`. With `spread` above 1, each environment has an end of its own, from
    end / spread to end · spread in equal ratios, so that some explore while others see how far
    the greedy policy gets (Horgan et al. 2018, Ape-X). An exploratory action is held for
    `repeat` steps in the mean (Dabney et al. 2021).
    """

    start: Share = 1.0
    end: Share = 0.05
    decay: PositiveFloat = 1_000
    spread: Annotated[float, Field(ge=1)] = 1.0
    repeat: Annotated[float, Field(ge=1)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> EpsilonConfig:
        if self.end * self.spread > 1:
            raise ValueError(f"end {self.end} times spread {self.spread} is above 1")
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


class FineTuningConfig(PPOConfig):
    """PPO on rewards that people's preferences have gone into."""

    total_env_steps: Positive = 196_608
    learning_rate: PositiveFloat = 2e-3
    epochs: Positive = 6
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    gae_lambda: Share = 0.95
    reward_scale: Annotated[PositiveFloat, Field(description="Divides rewards.")] = 30.0


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


class RunConfig(Strict):
    """What every run has."""

    policy: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    environment: EnvironmentConfig


class TrainingConfig(RunConfig):
    """What runs that train a policy share."""

    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()


class DQNRun(TrainingConfig):
    """Trains with DQN through the Redis replay."""

    algorithm: Literal["dqn"]
    network: QNetworkConfig = QNetworkConfig()
    replay: ReplayConfig = ReplayConfig()
    dqn: DQNConfig = DQNConfig()

    @model_validator(mode="after")
    def _fits(self) -> DQNRun:
        self.replay.check_reached()
        if self.dqn.bootstrap in (Bootstrap.SARSA, Bootstrap.EXPECTED_SARSA):
            self._fits_sarsa(self.dqn.bootstrap.value)
        return self

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
        if self.network.noisy or self.network.quantiles:
            raise ValueError("PQN learns mean values and explores by ε: no noisy, no quantiles")
        return self


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
        _check_not_normalised(self.network)
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
        _check_not_normalised(self.network)
        return self


def _check_not_normalised(network: ActorCriticNetworkConfig) -> None:
    if network.normalise_observations:
        raise ValueError(
            "network.normalise_observations is for ppo and a2c: what is in a replay was not "
            "normalised alike; use network.observation_scale"
        )


class TabularRun(TrainingConfig):
    """Trains a table of action values, for environments whose states can be counted."""

    algorithm: Literal["tabular"]
    tabular: TabularConfig = TabularConfig()


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


Run = DQNRun | PQNRun | PPORun | A2CRun | SACRun | TD3Run | TabularRun | SegmentsRun | RLHFRun
_ANY_RUN: TypeAdapter[Run] = TypeAdapter(Annotated[Run, Field(discriminator="algorithm")])


def preset_names() -> list[str]:
    """Presets that come with the trainer, sorted."""
    names = (entry.name for entry in PRESETS.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def preset_description(name: str) -> str:
    """A preset's first line: what it is for."""
    return (PRESETS / f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")


def load_preset(
    name: str, overrides: Mapping[str, str] | None = None, seed: int | None = None
) -> Run:
    """A preset with some values replaced.

    Args:
        overrides: YAML scalars by dotted key, such as {"dqn.learning_rate": "3e-4"}.

    Raises:
        InvalidConfig: for an unknown preset, an unknown key, or a value out of range, named.
    """
    if name not in preset_names():
        raise InvalidConfig(f"no preset {name!r}; there are: {', '.join(preset_names())}")
    content = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    for key, text in (overrides or {}).items():
        _override(content, key, text)
    if seed is not None:
        content["seed"] = seed
    return parse(content, source=f"preset {name}")


def parse(content: object, source: str) -> Run:
    """A configuration from plain data.

    Raises:
        InvalidConfig: naming each key that is wrong and why.
    """
    try:
        return _ANY_RUN.validate_python(content)
    except ValidationError as error:
        problems = "; ".join(_problem(p["loc"], p["type"], p["msg"]) for p in error.errors())
        raise InvalidConfig(f"{source}: {problems}") from None


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    if not location:
        return f"algorithm: {message}"
    key = ".".join(str(part) for part in location[1:])  # the first is the algorithm's name
    if kind == "extra_forbidden":
        return f"unknown key {key!r}"
    return f"{key}: {message}" if key else message


def _override(content: dict[str, Any], key: str, text: str) -> None:
    *parents, last = key.split(".")
    part = content
    for parent in parents:
        part = part.setdefault(parent, {})
        if not isinstance(part, dict):
            raise InvalidConfig(f"override {key!r}: {parent!r} is a value, not a group of keys")
    try:
        part[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # the latter for dates such as 2026-13-45
        raise InvalidConfig(f"override {key!r}: {text!r} is not a YAML value") from None


def to_yaml(config: RunConfig) -> str:
    """The whole configuration, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
