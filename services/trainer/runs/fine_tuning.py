"""RLHF: fit a reward model to people's preferences, and teach the deployed policy with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from services.common.replay import Transitions
from services.common.spec import PolicySpec
from services.trainer import environments
from services.trainer.algorithms.soft_lambda import SoftLambdaLearner
from services.trainer.checkpoint import CheckpointStore
from services.trainer.config import QNetworkConfig, RLHFRun
from services.trainer.evaluate import evaluate
from services.trainer.export import Exporter
from services.trainer.learning import NewestWindow
from services.trainer.networks import LeashedQNetwork, QNetwork
from services.trainer.publishing import CandidateKeeper, Identity, greedy, publish
from services.trainer.resources import Resources
from services.trainer.reward.ensemble import RewardEnsemble
from services.trainer.runs import off_policy
from services.trainer.runs.recording import Recorder
from services.trainer.runs.reward_fitting import fit_reward_model
from services.trainer.runs.session import RunSession
from services.trainer.runs.store import RunFolder
from services.trainer.segments import Source
from services.trainer.weights import load_q_network

MEASURED_EPISODES = 16


def fine_tune(
    config: RLHFRun,
    folder: RunFolder,
    session: RunSession,
    resources: Resources,
    attempt: int,
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
    deployed = observe(base, config, generator)
    network = leash(deployed, config, manifest.spec)
    shaping = _Shaping(config, network, ensemble, deployed, version)
    judge = CandidateKeeper(session, config, shaping.learned, generator)
    learner = SoftLambdaLearner(
        network,
        config.tuning,
        config.leash.temperature / config.tuning.reward_scale,
        resources.device,
    )
    parts = off_policy.Parts(
        session=session,
        resources=resources,
        run_id=folder.run_id,
        attempt=attempt,
        spec=manifest.spec,
        learning=NewestWindow(learner, config.tuning, generator),
        judge=judge,
        checkpoints=CheckpointStore(folder.checkpoints, config.checkpoint.keep),
        generator=generator,
        relabel=shaping,
    )
    if not off_policy.run(config, parts):
        return False
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
    median_lead: of the best action's value over the second's.
    """

    network: nn.Module
    observations: npt.NDArray[Any]
    actions: npt.NDArray[np.int64]
    median_lead: float


def observe(base: nn.Module, config: RLHFRun, generator: np.random.Generator) -> Deployed:
    """Play some greedy episodes of the deployed policy."""
    act, seed = greedy(base), environments.seed_from(generator)
    seen = evaluate(act, config.environment, MEASURED_EPISODES, seed).observations
    with torch.inference_mode():
        ordered = base(torch.from_numpy(seen)).sort(dim=1, descending=True).values
    lead = float((ordered[:, 0] - ordered[:, 1]).median())
    return Deployed(base, seen, act(seen), max(lead, 1e-6))


def leash(deployed: Deployed, config: RLHFRun, spec: PolicySpec) -> LeashedQNetwork:
    """The deployed policy's network with a correction that is still nothing."""
    return LeashedQNetwork(
        base=deployed.network,
        correction=QNetwork(spec, QNetworkConfig(**dict(config.network))),
        temperature=config.leash.temperature / config.tuning.reward_scale,
        prior_temperature=config.leash.prior_temperature or deployed.median_lead,
        floor=config.leash.floor,
    )


class _Shaping:
    """The rewards that fine-tuning learns from.

    r' = w_env·r + w·r̂(s, a) + τ·log π₀(a|s), with π₀ the deployed policy, and r̂ by how much
    the reward model likes a step better than what π₀ does on average. Were r̂ negative for what
    π₀ does, ending the episode could be worth more than going on.
    """

    def __init__(
        self,
        config: RLHFRun,
        network: LeashedQNetwork,
        ensemble: RewardEnsemble,
        deployed: Deployed,
        version: int,
    ) -> None:
        self._config, self._network, self._ensemble = config, network, ensemble
        self.version = version
        self._usual = 0.0
        self._usual = float(self.learned(deployed.observations, deployed.actions).mean())

    def learned(
        self, observations: npt.NDArray[Any], actions: npt.NDArray[Any]
    ) -> npt.NDArray[np.float32]:
        """r̂: (B, *shape), (B,) → (B,)"""
        liked = self._ensemble.reward(observations, actions, self._config.pessimism)
        return (liked - self._usual).astype(np.float32)

    def rewards(self, transitions: Transitions) -> npt.NDArray[np.float32]:
        """r' of transitions, (n,)."""
        config = self._config
        observations = np.ascontiguousarray(transitions.observation)
        actions = transitions.action.astype(np.int64)
        rewards: npt.NDArray[np.float32] = (
            config.environment_reward_weight * transitions.reward
            + config.learned_reward_weight * self.learned(observations, actions)
            + config.leash.temperature * self._log_prior(observations, actions)
        ).astype(np.float32)
        return rewards

    def _log_prior(
        self, observations: npt.NDArray[Any], actions: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        device = next(self._network.parameters()).device
        with torch.inference_mode():
            log_prior = self._network.log_prior(torch.from_numpy(observations).to(device))
        rows: npt.NDArray[np.float32] = log_prior.cpu().numpy()[np.arange(len(actions)), actions]
        return rows


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
