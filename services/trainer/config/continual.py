"""Runs that learn from what the clients of a served policy meet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from services.trainer.config.action_values import Bootstrap, DQNConfig, QNetworkConfig
from services.trainer.config.parts import EpsilonConfig, Name, Positive, Strict, TrainingConfig


class OutcomesConfig(Strict):
    """The replay that the inference service fills with reported outcomes.

    `capacity` is how much of it is learnt from; how much it holds is a setting of that service.
    """

    name: Annotated[str, Field(description="Empty: <policy>.outcomes.")] = ""
    capacity: Annotated[Positive, Field(description="Newest rows, of steps and closing ones.")] = (
        100_000
    )
    min_replay_size: Annotated[Positive, Field(description="Steps.")] = 1_000


class ContinualRun(TrainingConfig):
    """Trains on with DQN from reported outcomes; its steps are those of the policy's clients.

    `environment` is what versions are evaluated in. How far clients explore they say themselves,
    when they ask for actions.
    """

    algorithm: Literal["dqn-continual"]
    start_alias: Annotated[
        Name | None,
        Field(
            description="Of the version whose network is trained on; it must be as `network` says, "
            "and dqn.reward_scale what it was trained with. null: begin with a fresh network."
        ),
    ] = "stable"
    network: QNetworkConfig = QNetworkConfig()
    replay: OutcomesConfig = OutcomesConfig()
    dqn: DQNConfig = DQNConfig(total_env_steps=1_000_000)

    @model_validator(mode="after")
    def _learns_from_others(self) -> ContinualRun:
        if self.deterministic:
            raise ValueError(
                "deterministic is for runs that learn from an environment alone: what clients "
                "report meanwhile cannot be repeated"
            )
        if self.dqn.bootstrap not in (Bootstrap.Q_LEARNING, Bootstrap.DOUBLE):
            raise ValueError(
                f"dqn.bootstrap {self.dqn.bootstrap.value} learns of a policy whose exploration it "
                "knows, but clients choose theirs: use q-learning or double"
            )
        if self.dqn.epsilon != EpsilonConfig():
            raise ValueError(
                "dqn.epsilon means nothing here: clients choose how they explore, by epsilon in Act"
            )
        if self.replay.min_replay_size > self.replay.capacity:
            raise ValueError(
                f"replay.min_replay_size {self.replay.min_replay_size} is never reached with "
                f"replay.capacity {self.replay.capacity}"
            )
        return self
