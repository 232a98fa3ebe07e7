"""What configurations of all kinds of runs are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


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


class ConvolutionConfig(Strict):
    """One layer of square kernels, without padding, and ReLU."""

    channels: Positive
    kernel: Positive
    stride: Positive = 1


class ImageConfig(Strict):
    """Convolutions for observations, or parts of them, that are pictures: of two axes and more.

    The last two axes are height and width (`channels_last`: the two before the last), and all
    others are channels, such as those of several frames. With `difference`, the first axis is
    frames, and the newest less the one before is what is seen. `norm` comes before each ReLU: of
    each channel over a batch, or of all channels of one observation.
    """

    convolutions: Annotated[tuple[ConvolutionConfig, ...], Field(min_length=1)]
    norm: Literal["none", "batch", "layer"] = "none"
    difference: bool = False
    channels_last: bool = False


class NetworkConfig(Strict):
    """A multilayer perceptron, behind convolutions where `image` says how pictures are seen.

    What is observed as uint8 is divided by 255. Each part of a Dict has an encoder of its own.
    """

    hidden: tuple[Positive, ...] = (64, 64)
    layer_norm: bool = False
    observation_scale: Annotated[
        tuple[PositiveFloat, ...],
        Field(description="Divides each observation element; empty: as they come."),
    ] = ()
    image: ImageConfig | None = None

    @model_validator(mode="after")
    def _has_layers(self) -> NetworkConfig:
        if not self.hidden and self.image is None:
            raise ValueError("network.hidden is empty, expected the width of at least one layer")
        if self.observation_scale and self.image is not None:
            raise ValueError("network.observation_scale is for what network.image is not: vectors")
        return self


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
            description="How many frames an observation stacks on its first axis, oldest first. "
            "Each is then stored once. 1: observations are stored as they come."
        ),
    ] = 1
    frame_pad: Annotated[
        Literal["first", "zero"],
        Field(
            description="What stands before an episode's first frame: that frame again, or zeros, "
            "as FrameStackObservation does by padding_type 'reset' or 'zero'. Atari has zeros."
        ),
    ] = "first"
    reward_limit: Annotated[
        PositiveFloat | None,
        Field(
            description="Rewards are stored, and so learnt from, clipped to this and less than "
            "nothing by as much; the returns that are reported are not. Unset: as they are."
        ),
    ] = None

    def check_alone(self, deterministic: bool) -> None:
        """Refuse to share a replay where every row must be known.

        Raises:
            ValueError: naming the setting.
        """
        if deterministic and self.name:
            raise ValueError(
                f"replay.name {self.name!r} is for replays that others append to as well, and "
                "what they append cannot be repeated: leave it empty where deterministic is true"
            )

    def room_for(self, env_steps: int, num_envs: int) -> int:
        """How many rows so many steps may come to at most, chunks begun included."""
        chunk = self.chunk_rows + num_envs
        steps = env_steps + 2 * chunk
        leads = (steps // self.chunk_rows + 1) * num_envs * (self.frame_stack - 1)
        return 2 * steps + leads  # an episode may end with every step

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
    same_starts: Annotated[
        bool,
        Field(
            description="Whether all of a run's evaluations, beside those that confirm, begin in "
            "the same states: where these decide much of a return, better policies then show in "
            "fewer episodes."
        ),
    ] = False


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


class RunConfig(Strict):
    """What every run has."""

    policy: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    environment: EnvironmentConfig


class TrainingConfig(RunConfig):
    """What runs that train a policy share."""

    deterministic: Annotated[
        bool,
        Field(
            description="Whether the run, stopped or killed at any moment and resumed, goes on "
            "exactly as if it had not been; see `services.trainer.runs.loop` for what that takes."
        ),
    ] = False
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
