"""The first half of a fine-tuning run: preferences in, a reward model that passed its gate out."""

from __future__ import annotations

import numpy as np

from services.common.errors import PreconditionFailed
from services.common.registry import PolicyManifest
from services.trainer.checkpoint import CheckpointStore
from services.trainer.config import RLHFRun
from services.trainer.resources import Resources
from services.trainer.reward.ensemble import RewardEnsemble
from services.trainer.reward.fitting import Report, fit
from services.trainer.reward.preferences import PreferenceData, from_messages
from services.trainer.reward.store import RewardModelStore
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunFolder
from tutelage import FeedbackClient
from tutelage.v1 import feedback_pb2
from tutelage.v1 import training_pb2 as pb

PHASE = "fitting reward model"


def fit_reward_model(
    config: RLHFRun,
    manifest: PolicyManifest,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> tuple[RewardEnsemble, int]:
    """Fetch all preferences, fit, judge, save and announce; the model and its version.

    A run that goes on from a checkpoint goes on with the model it has learnt from so far,
    whatever was labelled since.

    Raises:
        PreconditionFailed: too few preferences, or a model that does not pass its gate.
        Unavailable: when the feedback service does not answer.
    """
    store = RewardModelStore(resources.reward_models)
    fitted = store.version_of(config.policy, folder.run_id)
    if fitted is not None and CheckpointStore(folder.checkpoints).steps():
        ensemble = store.load(config.policy, fitted, manifest.spec.actions, config.reward)
        return ensemble, fitted
    data = fetch_preferences(config.policy, resources.feedback_address)
    if len(data.outcome) < config.reward.min_preferences:
        raise PreconditionFailed(
            f"{len(data.outcome)} preferences are too few to learn from; label at least "
            f"{config.reward.min_preferences} pairs, skips left aside"
        )

    def on_epoch(done: int) -> None:
        session.progress(PHASE, done, config.reward.epochs, "epochs")

    ensemble, report = fit(data, manifest.spec.actions, config.reward, generator, on_epoch)
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
