"""Puts a run together from its configuration, and sees it through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import structlog
import torch

from services.common.action_space import Box, Discrete
from services.common.errors import InvalidConfig, TutelageError
from services.common.spec import Distribution, PolicySpec
from services.trainer import environments
from services.trainer.actor_critic import ActorCritic
from services.trainer.algorithms.a2c import A2CLearner
from services.trainer.algorithms.actor_critic import ActorCriticLearner
from services.trainer.algorithms.dqn import DQNLearner
from services.trainer.algorithms.ppo import PPOLearner
from services.trainer.algorithms.pqn import PQNLearner
from services.trainer.algorithms.qr_dqn import QuantileLearner
from services.trainer.algorithms.sac import SACLearner
from services.trainer.algorithms.sac_discrete import DiscreteSACLearner
from services.trainer.algorithms.tabular import TabularLearner
from services.trainer.algorithms.td3 import TD3Learner
from services.trainer.algorithms.twin_critics import TwinCriticsLearner
from services.trainer.checkpoint import CheckpointStore
from services.trainer.config import (
    A2CRun,
    ContinualRun,
    DQNRun,
    EnvironmentConfig,
    PPORun,
    PQNRun,
    RLHFRun,
    SACRun,
    SegmentsRun,
    TabularRun,
    TD3Run,
    TrainingConfig,
)
from services.trainer.heads import policy_gradient_distribution
from services.trainer.learning import DrawnBatches
from services.trainer.networks import QNetwork
from services.trainer.publishing import Identity, Publisher
from services.trainer.resources import Resources
from services.trainer.runs import continual, off_policy, twin_critics
from services.trainer.runs.arithmetic import arithmetic
from services.trainer.runs.fine_tuning import fine_tune
from services.trainer.runs.history import HistoryWriter
from services.trainer.runs.loop import LoopParts
from services.trainer.runs.on_policy import OnPolicyRun
from services.trainer.runs.parallel_q import ParallelQRun
from services.trainer.runs.recording import record
from services.trainer.runs.replay_loop import ReplayParts
from services.trainer.runs.session import Listener, RunSession
from services.trainer.runs.store import RunFolder, RunView
from services.trainer.runs.tabular import TabularLoop
from tutelage.v1 import training_pb2 as pb

if TYPE_CHECKING:
    from services.trainer.runs.tensorboard import TensorBoardLog

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
        versions = view.refresh().published_versions
        history = HistoryWriter(folder.history)
        board = _board(folder, resources)
        listeners = _both(listener, board.take if board else None)
        session = RunSession(history, listeners, versions)
        on_session(session)
        try:
            session.status(pb.RUN_STATUS_RUNNING)
            with arithmetic(deterministic=_deterministic(folder)):
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
            if board is not None:
                board.close()
        return status


def _board(folder: RunFolder, resources: Resources) -> TensorBoardLog | None:
    if resources.tensorboard is None:
        return None
    from services.trainer.runs.tensorboard import TensorBoardLog  # which need not be installed

    return TensorBoardLog(resources.tensorboard / folder.run_id)


def _both(first: Listener | None, second: Listener | None) -> Listener | None:
    if first is None or second is None:
        return first or second

    def tell(event: pb.RunEvent) -> None:
        first(event)
        second(event)

    return tell


def _deterministic(folder: RunFolder) -> bool:
    config = folder.config()
    return isinstance(config, TrainingConfig) and config.deterministic


def _run(folder: RunFolder, session: RunSession, resources: Resources, attempt: int) -> bool:
    config = folder.config()
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
        case SACRun() | TD3Run():
            return _train_twin_critics(config, folder, session, resources, attempt, generator)
        case PPORun() | A2CRun():
            return _train_on_policy(config, folder, session, resources, generator)
        case RLHFRun():
            return fine_tune(config, folder, session, resources, generator)
        case ContinualRun():
            return _train_on(config, folder, session, resources, generator)


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


def _train_on_policy(
    config: PPORun | A2CRun,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> bool:
    kind = policy_gradient_distribution(environments.action_space_of(config.environment))
    spec = environments.spec_of(config.environment, kind)
    spec = spec.model_copy(update={"valued": True})
    network = ActorCritic(spec, config.network, config.rates.initial_log_std)
    learner: ActorCriticLearner
    if isinstance(config, PPORun):
        learner = PPOLearner(network, config.ppo, resources.device)
    else:
        learner = A2CLearner(network, config.a2c, resources.device)
    identity = Identity(folder.run_id, config.algorithm, spec)
    parts = LoopParts(
        session=session,
        judge=Publisher(session, config, identity, resources, generator),
        checkpoints=_checkpoints(folder, config),
        generator=generator,
    )
    return OnPolicyRun(config, config.rates, learner, parts).run()


def _train_twin_critics(
    config: SACRun | TD3Run,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    attempt: int,
    generator: np.random.Generator,
) -> bool:
    spec, learner = twin_critics_learner(config, resources.device, generator)
    identity = Identity(folder.run_id, config.algorithm, spec)
    parts = ReplayParts(
        session=session,
        resources=resources,
        run_id=folder.run_id,
        attempt=attempt,
        spec=spec,
        judge=Publisher(session, config, identity, resources, generator),
        checkpoints=_checkpoints(folder, config),
        generator=generator,
    )
    return twin_critics.run(config, learner, parts)


def twin_critics_learner(
    config: SACRun | TD3Run, device: torch.device, generator: np.random.Generator
) -> tuple[PolicySpec, TwinCriticsLearner]:
    """The learner of such a run, and what its policy takes and gives."""
    environment, network = config.environment, config.network
    if isinstance(config, TD3Run):
        spec = environments.spec_of(environment, Distribution.DETERMINISTIC)
        return spec, TD3Learner(spec, network, config.td3, device, generator)
    if isinstance(environments.action_space_of(environment), Box):
        spec = environments.spec_of(environment, Distribution.TANH_GAUSSIAN)
        return spec, SACLearner(spec, network, config.sac, device, generator)
    spec = environments.spec_of(environment, Distribution.LOGITS)
    if not isinstance(spec.action, Discrete):
        raise InvalidConfig(
            f"environment.id: {spec.environment} acts in {spec.action}, expected "
            "Discrete or a Box for sac"
        )
    return spec, DiscreteSACLearner(spec, network, config.sac, device, generator)


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


def _train_on(
    config: ContinualRun,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> bool:
    spec, checkpoints = values_spec(config.environment), _checkpoints(folder, config)
    network, published = QNetwork(spec, config.network), None
    if config.start_alias is not None and not checkpoints.steps():
        network, base = continual.starting_network(config, resources.registry, config.start_alias)
        published = base.evaluation
    kind = QuantileLearner if config.network.quantiles else DQNLearner
    learner = kind(network, config.dqn, resources.device, generator)
    identity = Identity(folder.run_id, config.algorithm, spec)
    parts = continual.Parts(
        session=session,
        judge=Publisher(session, config, identity, resources, generator, published),
        checkpoints=checkpoints,
        generator=generator,
        spec=spec,
        resources=resources,
        learning=DrawnBatches(learner, config.dqn),
    )
    return continual.run(config, parts)


def _checkpoints(folder: RunFolder, config: TrainingConfig) -> CheckpointStore:
    return CheckpointStore(folder.checkpoints, config.checkpoint.keep)
