"""RLHF: fit a reward model to people's preferences, and teach the deployed policy with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from services.common.spec import PolicySpec
from services.trainer import environments
from services.trainer.actor_critic import LeashedActorCritic
from services.trainer.algorithms.ppo import PPOLearner
from services.trainer.checkpoint import CheckpointStore
from services.trainer.config import QNetworkConfig, RLHFRun
from services.trainer.evaluate import evaluate
from services.trainer.export import Exporter
from services.trainer.networks import LeashedQNetwork, QNetwork
from services.trainer.publishing import CandidateKeeper, Identity, greedy, publish
from services.trainer.resources import Resources
from services.trainer.runs.loop import LoopParts
from services.trainer.runs.on_policy import OnPolicyRun
from services.trainer.runs.recording import Recorder
from services.trainer.runs.reward_fitting import fit_reward_model
from services.trainer.runs.session import RunSession
from services.trainer.runs.shaping import Shaping
from services.trainer.runs.store import RunFolder
from services.trainer.segments import Source
from services.trainer.weights import load_q_network

MEASURED_EPISODES = 16


def fine_tune(
    config: RLHFRun,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> bool:
    """Fit, gate, fine-tune, publish under `publish_alias`, and record what was met on the way.

    The policies met on the way do more of what people seem to like, and too much of it, so
    that comparing them tells the reward model where enough is.

    Returns:
        False when stopped before the end.

    Raises:
        PreconditionFailed: too few preferences, or a reward model that does not pass its gate.
        Unavailable: when the feedback service does not answer.
    """
    base, manifest = load_q_network(resources.registry, config.policy, config.base_alias)
    ensemble, version = fit_reward_model(config, manifest, folder, session, resources, generator)
    deployed = observe(base, config)
    actor = leash(deployed, config, manifest.spec)
    shaping = Shaping(
        config,
        actor,
        ensemble,
        deployed.observations,
        deployed.actions,
        deployed.step_reward,
    )
    judge = CandidateKeeper(session, config, shaping.learned, generator)
    network = LeashedActorCritic(actor, manifest.spec, config.network, shaping.usual_value)
    parts = LoopParts(
        session=session,
        judge=judge,
        checkpoints=CheckpointStore(folder.checkpoints, config.checkpoint.keep),
        generator=generator,
    )
    learner = PPOLearner(network, config.tuning, resources.device)
    loop = OnPolicyRun(config, config.tuning, learner, parts, shaping)
    if not loop.run():
        return False
    if not judge.snapshots:  # it had come to its end before, and candidates are not kept
        loop.evaluate()
    identity = Identity(folder.run_id, config.algorithm, manifest.spec, version)
    _publish(judge, config, identity, session, resources, generator)
    if not config.recording.segments or session.should_stop:
        return True
    recorder = Recorder(config.policy, config.environment, session, resources)
    sources = [Source(greedy(base), manifest.version)]
    # The first third still learns to stand on its leash.
    sources += [Source(greedy(n), 0) for n in judge.snapshots[len(judge.snapshots) // 3 :]]
    recorder.record(sources, config.recording, generator, shaping.learned)
    return True


@dataclass(frozen=True)
class Deployed:
    """The deployed policy, and how it behaves.

    observations, actions: (n, *shape), (n,) of greedy episodes.
    step_reward: mean reward of a step.
    median_lead: of the best action's value over the second's.
    """

    network: nn.Module
    observations: npt.NDArray[Any]
    actions: npt.NDArray[np.int64]
    step_reward: float
    median_lead: float


def observe(base: nn.Module, config: RLHFRun) -> Deployed:
    """Play some greedy episodes of the deployed policy, the same again when a run goes on."""
    act, seed = greedy(base), environments.seed_from(np.random.default_rng(config.seed))
    judged = evaluate(act, config.environment, MEASURED_EPISODES, seed)
    seen, step_reward = judged.observations, float(judged.returns.sum()) / judged.steps
    with torch.inference_mode():
        ordered = base(torch.from_numpy(seen)).sort(dim=1, descending=True).values
    lead = float((ordered[:, 0] - ordered[:, 1]).median())
    return Deployed(base, seen, act(seen), step_reward, max(lead, 1e-6))


def leash(deployed: Deployed, config: RLHFRun, spec: PolicySpec) -> LeashedQNetwork:
    """The deployed policy's network with a correction that is still nothing."""
    return LeashedQNetwork(
        base=deployed.network,
        correction=QNetwork(spec, QNetworkConfig(**dict(config.network))),
        temperature=1.0,  # its values are logits
        prior_temperature=config.leash.prior_temperature or deployed.median_lead,
        floor=config.leash.floor,
    )


def _publish(
    keeper: CandidateKeeper,
    config: RLHFRun,
    identity: Identity,
    session: RunSession,
    resources: Resources,
    generator: np.random.Generator,
) -> None:
    best = keeper.confirm_best(environments.seed_from(generator))
    if best is None:
        session.say(
            f"no candidate returned {config.min_return:g} in the environment, so nothing is "
            "published; label more pairs and run again",
            "warning",
        )
        return
    manifest = publish(
        best.network,
        config,
        identity,
        best.judged,
        best.env_steps,
        resources,
        Exporter(identity.spec),
    )
    resources.registry.set_alias(config.policy, config.publish_alias, manifest.version)
    session.published(config.policy, manifest.version, config.publish_alias, manifest.sha256)
