"""RLHF: fit a reward model to people's preferences, and teach the deployed policy with it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from services.common.errors import PreconditionFailed
from services.common.registry import PolicyManifest
from services.common.replay.schema import Rows
from services.trainer.algorithms.dqn import DQNLearner, Target
from services.trainer.checkpoint import CheckpointStore
from services.trainer.config import LeashConfig, RLHFRun
from services.trainer.export import Exporter
from services.trainer.losses import soft_q_target
from services.trainer.networks import QNetwork
from services.trainer.publishing import FineTuningPublisher, Identity, publish
from services.trainer.resources import Resources
from services.trainer.reward.ensemble import RewardEnsemble
from services.trainer.reward.fitting import Report, fit
from services.trainer.reward.preferences import PreferenceData, from_messages
from services.trainer.reward.store import RewardModelStore
from services.trainer.runs import off_policy
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunFolder
from services.trainer.weights import load_q_network
from tutelage import FeedbackClient
from tutelage.v1 import feedback_pb2
from tutelage.v1 import training_pb2 as pb


def fine_tune(
    config: RLHFRun,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    attempt: int,
    generator: np.random.Generator,
) -> bool:
    """Fit, gate, fine-tune, publish under `publish_alias`; False when stopped before the end.

    Raises:
        PreconditionFailed: too few preferences, a reward model that does not pass its gate, or
            no candidate that still does its task.
        Unavailable: when the feedback service does not answer.
    """
    base, manifest = load_q_network(resources.registry, config.policy, config.base_alias)
    ensemble, version = _reward_model(config, manifest, folder, session, resources, generator)
    shaping = _Shaping(config, base, ensemble)
    judge = FineTuningPublisher(
        session, config, config.min_return, shaping.learned, generator, copy.deepcopy
    )
    parts = off_policy.Parts(
        session=session,
        resources=resources,
        run_id=folder.run_id,
        attempt=attempt,
        spec=manifest.spec,
        learner=DQNLearner(
            shaping.start(), config.dqn, kl_control_target(config.leash), resources.device
        ),
        judge=judge,
        checkpoints=CheckpointStore(folder.checkpoints, config.checkpoint.keep),
        generator=generator,
        relabel=shaping.rewards,
    )
    finished = off_policy.run(config, parts)
    if finished:
        identity = Identity(folder.run_id, config.algorithm, manifest.spec, version)
        _publish(judge, config, identity, session, resources)
    return finished


def kl_control_target(leash: LeashConfig) -> Target:
    """Soft Q-learning's target; the leash itself is in the rewards (see `_Shaping`)."""

    def target(r_t: Tensor, discount_t: Tensor, q_t: Tensor, online_q_t: Tensor) -> Tensor:
        return soft_q_target(r_t, discount_t, q_t, leash.temperature)

    return target


class _Shaping:
    """The rewards that fine-tuning learns from, and where it starts.

    r' = w_env·r + w·r̂(s, a) + τ·log π₀(a|s), with r̂ from the reward model and π₀ the
    deployed policy.
    """

    def __init__(self, config: RLHFRun, base: QNetwork, ensemble: RewardEnsemble) -> None:
        self._config, self._base, self._ensemble = config, base.eval(), ensemble

    def learned(
        self, observations: npt.NDArray[Any], actions: npt.NDArray[Any]
    ) -> npt.NDArray[np.float32]:
        """r̂: (B, *shape), (B,) → (B,)"""
        return self._ensemble.reward(observations, actions, self._config.pessimism)

    def rewards(self, rows: Rows) -> npt.NDArray[np.float32]:
        """r' of transitions, (n,)."""
        config = self._config
        observations = np.ascontiguousarray(rows["observation"])
        actions = rows["action"].astype(np.int64)
        rewards: npt.NDArray[np.float32] = (
            config.environment_reward_weight * rows["reward"]
            + config.learned_reward_weight * self.learned(observations, actions)
            + config.leash.temperature * self._log_prior(observations, actions)
        ).astype(np.float32)
        return rewards

    def start(self) -> nn.Module:
        """A copy of the deployed policy's network."""
        return copy.deepcopy(self._base)

    def _log_prior(
        self, observations: npt.NDArray[Any], actions: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            values = self._base(torch.from_numpy(observations))
            log_prior = torch.log_softmax(values / self._config.leash.prior_temperature, dim=1)
        rows: npt.NDArray[np.float32] = log_prior.numpy()[np.arange(len(actions)), actions]
        return rows


def _reward_model(
    config: RLHFRun,
    manifest: PolicyManifest,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> tuple[RewardEnsemble, int]:
    session.progress("fitting reward model", 0, 1, "fits", now=True)
    data = fetch_preferences(config.policy, resources.feedback_address)
    if len(data.outcome) < config.reward.min_preferences:
        raise PreconditionFailed(
            f"{len(data.outcome)} preferences are too few to learn from; label at least "
            f"{config.reward.min_preferences} pairs, skips left aside"
        )
    ensemble, report = fit(data, manifest.spec.actions, config.reward, generator)
    store = RewardModelStore(resources.reward_models)
    version = store.save(config.policy, ensemble, report, folder.run_id)
    accepted = report.passes(config.reward)
    session.reward_model_fitted(_message(config.policy, version, report, accepted))
    if not accepted:
        raise PreconditionFailed(
            f"reward model {version} does not pass: accuracy {report.accuracy:.2f} on "
            f"{report.held_out_preferences} held-out pairs (at least {config.reward.min_accuracy}"
            f" wanted), calibration error {report.calibration_error:.2f} (at most "
            f"{config.reward.max_calibration_error} wanted); label more pairs"
        )
    return ensemble, version


def fetch_preferences(policy: str, feedback_address: str) -> PreferenceData:
    """All standing preferences of a task.

    Raises:
        PreconditionFailed: when there is none.
        Unavailable: when the feedback service does not answer.
    """
    preferences: list[feedback_pb2.Preference] = []
    segments: dict[str, feedback_pb2.Segment] = {}
    with FeedbackClient(feedback_address) as feedback:
        for page in feedback.preference_pages(policy, include_segments=True):
            preferences.extend(page.preferences)
            segments.update((segment.segment_id, segment) for segment in page.segments)
    return from_messages(preferences, segments)


def _message(policy: str, version: int, report: Report, accepted: bool) -> pb.RewardModelFitted:
    low, high = report.accuracy_interval
    return pb.RewardModelFitted(
        policy=policy,
        version=version,
        train_preferences=report.train_preferences,
        held_out_preferences=report.held_out_preferences,
        accuracy=report.accuracy,
        accuracy_low=low,
        accuracy_high=high,
        log_loss=report.log_loss,
        calibration_error=report.calibration_error,
        bins=[
            pb.CalibrationBin(predicted=b.predicted, observed=b.observed, count=b.count)
            for b in report.bins
        ],
        accepted=accepted,
    )


def _publish(
    judge: FineTuningPublisher,
    config: RLHFRun,
    identity: Identity,
    session: RunSession,
    resources: Resources,
) -> None:
    if judge.best is None:
        raise PreconditionFailed(
            f"no candidate returned {config.min_return} in the environment; nothing published. "
            "Try a tighter leash (leash.temperature) or more labels"
        )
    _, network, judged, env_steps = judge.best
    manifest = publish(
        network, config, identity, judged, env_steps, resources, Exporter(identity.spec)
    )
    resources.registry.set_alias(config.policy, config.publish_alias, manifest.version)
    session.published(config.policy, manifest.version, config.publish_alias, manifest.sha256)
