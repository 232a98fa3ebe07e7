"""Puts a run together from its configuration, and sees it through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import structlog
import torch

from services.common.errors import InvalidConfig, TutelageError
from services.common.spec import Distribution, PolicySpec
from services.trainer import environments
from services.trainer.algorithms.dqn import DQNLearner
from services.trainer.algorithms.ppo import PPOLearner
from services.trainer.algorithms.pqn import PQNLearner
from services.trainer.algorithms.qr_dqn import QuantileLearner
from services.trainer.algorithms.tabular import TabularLearner
from services.trainer.checkpoint import CheckpointStore
from services.trainer.config import (
    DQNRun,
    EnvironmentConfig,
    PPORun,
    PQNRun,
    RLHFRun,
    SegmentsRun,
    TabularRun,
    TrainingConfig,
)
from services.trainer.learning import DrawnBatches
from services.trainer.networks import ActorCritic, QNetwork
from services.trainer.publishing import Identity, Publisher
from services.trainer.resources import Resources
from services.trainer.runs import off_policy
from services.trainer.runs.fine_tuning import fine_tune
from services.trainer.runs.history import HistoryWriter
from services.trainer.runs.loop import LoopParts
from services.trainer.runs.on_policy import OnPolicyRun
from services.trainer.runs.parallel_q import ParallelQRun
from services.trainer.runs.recording import record
from services.trainer.runs.session import Listener, RunSession
from services.trainer.runs.store import RunFolder, RunView
from services.trainer.runs.tabular import TabularLoop
from tutelage.v1 import training_pb2 as pb

log = structlog.get_logger()


def execute(
    folder: RunFolder,
    resources: Resources,
    *,
    listener: Listener | None = None,
    on_session: Callable[[RunSession], None] = lambda session: None,
    stopped_status: Callable[[], pb.RunStatus.ValueType] = lambda: pb.RUN_STATUS_STOPPED,
) -> pb.RunStatus.ValueType:
    """Run, or go on from the newest checkpoint, until finished, stopped or failed.

    Args:
        listener: told each event.
        on_session: handed the session, on which `stop()` can be called from a signal handler.
        stopped_status: the status of a run that was asked to stop.

    Returns:
        the status the run ended with, which its history says too.

    Raises:
        PreconditionFailed: when another process is at work on the run.
    """
    with folder.locked():
        view = RunView(folder)
        view.refresh()
        history = HistoryWriter(folder.history)
        session = RunSession(history, listener)
        on_session(session)
        try:
            session.status(pb.RUN_STATUS_RUNNING)
            finished = _run(folder, session, resources, view.attempts)
            status = pb.RUN_STATUS_SUCCEEDED if finished else stopped_status()
            session.status(status)
        except TutelageError as error:
            status = pb.RUN_STATUS_FAILED
            session.status(status, str(error))
        except Exception as error:
            log.exception("run failed", run_id=folder.run_id)
            session.status(pb.RUN_STATUS_FAILED, f"{type(error).__name__}: {error}")
            raise
        finally:
            history.close()
        return status


def _run(folder: RunFolder, session: RunSession, resources: Resources, attempt: int) -> bool:
    config = folder.config()
    torch.set_num_threads(1)  # small networks: threads cost more than they bring
    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    match config:
        case SegmentsRun():
            return record(config, session, resources, generator)
        case DQNRun():
            return _train_dqn(config, folder, session, resources, attempt, generator)
        case TabularRun():
            return _train_table(config, folder, session, resources, generator)
        case PQNRun():
            return _train_pqn(config, folder, session, resources, generator)
        case PPORun():
            return _train_ppo(config, folder, session, resources, generator)
        case RLHFRun():
            return fine_tune(config, folder, session, resources, generator)


def _train_dqn(
    config: DQNRun,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    attempt: int,
    generator: np.random.Generator,
) -> bool:
    spec = values_spec(config.environment)
    kind = QuantileLearner if config.network.quantiles else DQNLearner
    network = QNetwork(spec, config.network)
    learner = kind(network, config.dqn, resources.device, generator)
    identity = Identity(folder.run_id, config.algorithm, spec)
    parts = off_policy.Parts(
        session=session,
        resources=resources,
        run_id=folder.run_id,
        attempt=attempt,
        spec=spec,
        learning=DrawnBatches(learner, config.dqn),
        judge=Publisher(session, config, identity, resources, generator),
        checkpoints=_checkpoints(folder, config),
        generator=generator,
    )
    return off_policy.run(config, parts)


def _train_pqn(
    config: PQNRun,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> bool:
    spec = values_spec(config.environment)
    learner = PQNLearner(QNetwork(spec, config.network), config.pqn, resources.device)
    identity = Identity(folder.run_id, config.algorithm, spec)
    parts = LoopParts(
        session=session,
        judge=Publisher(session, config, identity, resources, generator),
        checkpoints=_checkpoints(folder, config),
        generator=generator,
    )
    return ParallelQRun(config, learner, parts).run()


def values_spec(environment: EnvironmentConfig) -> PolicySpec:
    """The spec of a policy of action values, which takes masks where the environment gives them."""
    masked = environments.gives_masks(environment)
    return environments.spec_of(environment, Distribution.Q_VALUES, masked=masked)


def _train_ppo(
    config: PPORun,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> bool:
    spec = environments.spec_of(config.environment, Distribution.LOGITS)
    learner = PPOLearner(ActorCritic(spec, config.network), config.ppo, resources.device)
    identity = Identity(folder.run_id, config.algorithm, spec)
    parts = LoopParts(
        session=session,
        judge=Publisher(session, config, identity, resources, generator),
        checkpoints=_checkpoints(folder, config),
        generator=generator,
    )
    return OnPolicyRun(config, config.ppo, spec, learner, parts).run()


def _train_table(
    config: TabularRun,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> bool:
    spec = environments.spec_of(config.environment, Distribution.Q_VALUES)
    if spec.observation.n is None:
        raise InvalidConfig(
            f"environment.id: the states of {config.environment.id} cannot be counted; a table "
            "needs an environment that observes Discrete numbers"
        )
    identity = Identity(folder.run_id, config.tabular.update.value, spec)
    parts = LoopParts(
        session=session,
        judge=Publisher(session, config, identity, resources, generator),
        checkpoints=_checkpoints(folder, config),
        generator=generator,
    )
    learner = TabularLearner(spec.observation.n, spec.actions, config.tabular)
    return TabularLoop(config, learner, parts).run()


def _checkpoints(folder: RunFolder, config: TrainingConfig) -> CheckpointStore:
    return CheckpointStore(folder.checkpoints, config.checkpoint.keep)
