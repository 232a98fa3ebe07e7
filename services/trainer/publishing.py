"""Which of a run's policies are published: those that evaluation shows to be better."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from services.common.errors import NotFound
from services.common.observation_statistics import statistics_of
from services.common.registry import Evaluation, PolicyManifest
from services.common.spec import PolicySpec
from services.trainer.config import RLHFRun, TrainingConfig
from services.trainer.environments import seed_from
from services.trainer.evaluate import Greedy, Judged, StepReward, evaluate
from services.trainer.export import Exporter
from services.trainer.networks import LeashedQNetwork, QNetwork
from services.trainer.resources import Resources
from services.trainer.runs.session import RunSession
from services.trainer.weights import WEIGHTS, save_weights

STABLE = "stable"
KEPT_CANDIDATES = 5


@dataclass(frozen=True)
class Identity:
    """What a published version says of where it came from."""

    run_id: str
    algorithm: str
    spec: PolicySpec
    reward_model_version: int = 0


def publish(
    network: nn.Module,
    config: TrainingConfig,
    identity: Identity,
    judged: Judged,
    env_steps: int,
    resources: Resources,
    exporter: Exporter,
    told: Collection[int] = (),
) -> PolicyManifest:
    """Export the network and add it to the repository; no alias moves.

    Args:
        told: versions that the run's history knows; what is one of them again is not added.

    Raises:
        ModelRejected: when the export is not the network.
        StorageFull: when the disk is full.
    """
    model = exporter.export(network, judged.observations)
    statistics = statistics_of(judged.observations)

    def describe(version: int, digest: str) -> PolicyManifest:
        return PolicyManifest(
            policy=config.policy,
            version=version,
            spec=identity.spec,
            algorithm=identity.algorithm,
            run_id=identity.run_id,
            env_steps=env_steps,
            evaluation=judged.summary,
            observations=statistics,
            reward_model_version=identity.reward_model_version,
            git_commit=resources.git_commit,
            sha256=digest,
            published_at=datetime.now(UTC),
        )

    has_values = isinstance(network, QNetwork | LeashedQNetwork)
    weights = {WEIGHTS: save_weights(network)} if has_values else {}
    return resources.registry.publish(config.policy, model, describe, weights, told)


class Publisher:
    """Evaluates a run's policy as it learns, and publishes it when it got better.

    `stable` moves to a version whose evaluation is at least that of the version it points
    at, or reaches the goal as that one does, so that a new run never replaces a good policy by
    a worse one. It stays where people's preferences have gone into the version it points at:
    what a return does not show must not be lost without being asked for.

    Args:
        published: the evaluation of the version that the run began with; None: with none.
    """

    def __init__(
        self,
        session: RunSession,
        config: TrainingConfig,
        identity: Identity,
        resources: Resources,
        generator: np.random.Generator,
        published: Evaluation | None = None,
    ) -> None:
        self._session, self._config = session, config
        self._identity, self._resources = identity, resources
        self._generator = generator
        self._exporter = Exporter(identity.spec)
        self._published = (published.mean_return if published else -math.inf, -math.inf)
        self._lowest = math.inf
        self._confirmed = 0
        self._starts: int | None = None  # seed of the states that all evaluations begin in

    def consider(self, network: nn.Module, act: Greedy, env_steps: int) -> bool:
        """Evaluate; publish if it is worth it. True when the run's goal is reached."""
        settings, goal = self._config.evaluation, self._config.evaluation.goal_return
        judged = self._judge(act, settings.episodes, env_steps, self._start_seed())
        if goal is not None and judged.summary.mean_return >= goal:
            fresh = seed_from(self._generator)
            judged = self._judge(act, settings.confirm_episodes, env_steps, fresh)
            if judged.summary.mean_return >= goal:
                self._confirm(network, act, judged, env_steps)
                return self._confirmed >= settings.confirmations
        if self._is_better(judged.summary):
            self._publish(network, judged, env_steps, (judged.summary.mean_return, -math.inf))
        return False

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        finite = [value if math.isfinite(value) else None for value in self._published]
        lowest = self._lowest if math.isfinite(self._lowest) else None
        return {
            "published": finite,
            "lowest": lowest,
            "confirmed": self._confirmed,
            "starts": self._starts,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        mean, disturbed = (-math.inf if v is None else v for v in state["published"])
        self._published = (mean, disturbed)
        self._lowest = math.inf if state["lowest"] is None else state["lowest"]
        self._confirmed, self._starts = state["confirmed"], state.get("starts")

    def _start_seed(self) -> int:
        if not self._config.evaluation.same_starts:
            return seed_from(self._generator)
        if self._starts is None:
            self._starts = seed_from(self._generator)
        return self._starts

    def _judge(self, act: Greedy, episodes: int, env_steps: int, seed: int) -> Judged:
        masked = self._identity.spec.masked
        judged = evaluate(act, self._config.environment, episodes, seed, masked=masked)
        self._session.evaluated(env_steps, judged.summary)
        return judged

    def _confirm(self, network: nn.Module, act: Greedy, judged: Judged, env_steps: int) -> None:
        settings, goal = self._config.evaluation, self._config.evaluation.goal_return
        assert goal is not None
        self._confirmed += 1
        disturbed = evaluate(
            act,
            self._config.environment,
            settings.confirm_episodes,
            seed_from(self._generator),
            disturbance=settings.disturbance,
            masked=self._identity.spec.masked,
        )
        # Beyond its goal a policy is not better for a return that is a little higher.
        score = (goal, disturbed.summary.mean_return)
        if score > self._published:
            self._publish(network, judged, env_steps, score)

    def _is_better(self, evaluation: Evaluation) -> bool:
        self._lowest = min(self._lowest, evaluation.mean_return)
        published, _ = self._published
        span = max(published, evaluation.mean_return) - self._lowest
        margin = self._config.evaluation.publish_margin * span
        return evaluation.mean_return > published + margin

    def _publish(
        self, network: nn.Module, judged: Judged, env_steps: int, score: tuple[float, float]
    ) -> None:
        manifest = publish(
            network,
            self._config,
            self._identity,
            judged,
            env_steps,
            self._resources,
            self._exporter,
            self._session.versions,
        )
        self._published = score
        if manifest.version in self._session.versions:
            return  # the run has come by it before, and its alias was moved then
        policy, registry = self._config.policy, self._resources.registry
        moved = self._deserves_stable(manifest)
        if moved:
            registry.set_alias(policy, STABLE, manifest.version)
        self._session.published(policy, manifest.version, STABLE if moved else "", manifest.sha256)

    def _deserves_stable(self, new: PolicyManifest) -> bool:
        stable, goal = self._stable_manifest(), self._config.evaluation.goal_return
        if stable is None:
            return True
        if stable.reward_model_version and not new.reward_model_version:
            self._session.say(
                f"version {stable.version} was tuned to people's preferences and stays stable; "
                f"to replace it: tutelage promote {new.policy} {new.version}"
            )
            return False
        enough = math.inf if goal is None else goal
        mine, its = new.evaluation.mean_return, stable.evaluation.mean_return
        return min(mine, enough) >= min(its, enough)

    def _stable_manifest(self) -> PolicyManifest | None:
        policy, registry = self._config.policy, self._resources.registry
        state = registry.aliases(policy).get(STABLE)
        try:
            return registry.manifest(policy, state.version) if state else None
        except NotFound:
            return None


@dataclass(frozen=True)
class Candidate:
    """A network that has been judged, and when."""

    learned_reward: float
    network: nn.Module
    judged: Judged
    env_steps: int


class CandidateKeeper:
    """Keeps the networks that people's learned reward likes best and that still do their task.

    Only the environment's return and the learned reward are looked at. What is kept is
    published at the end, under an alias of its own, for people to compare before promotion.
    `snapshots` are all the networks that were judged, oldest first.
    """

    def __init__(
        self,
        session: RunSession,
        config: RLHFRun,
        step_reward: StepReward,
        generator: np.random.Generator,
    ) -> None:
        self._session, self._config = session, config
        self._step_reward, self._generator = step_reward, generator
        self._candidates: list[Candidate] = []
        self.snapshots: list[nn.Module] = []

    def consider(self, network: nn.Module, act: Greedy, env_steps: int) -> bool:
        """Evaluate, and keep the network if it is among the best. Never ends the run."""
        episodes, seed = self._config.evaluation.episodes, seed_from(self._generator)
        judged = self._judge(act, episodes, seed, env_steps)
        snapshot = copy.deepcopy(network)
        self.snapshots.append(snapshot)
        if judged.summary.mean_return >= self._config.min_return:
            candidate = Candidate(judged.mean_step_reward, snapshot, judged, env_steps)
            self._candidates.append(candidate)
            self._candidates.sort(key=lambda c: c.learned_reward, reverse=True)
            del self._candidates[KEPT_CANDIDATES:]
        return False

    def confirm_best(self, seed: int) -> Candidate | None:
        """The best candidate that does its task on fresh episodes too; None when none does."""
        episodes = self._config.evaluation.confirm_episodes
        for candidate in self._candidates:
            act = greedy(candidate.network)
            judged = self._judge(act, episodes, seed, candidate.env_steps)
            if judged.summary.mean_return >= self._config.min_return:
                return replace(candidate, judged=judged)
        return None

    def _judge(self, act: Greedy, episodes: int, seed: int, env_steps: int) -> Judged:
        judged = evaluate(act, self._config.environment, episodes, seed, self._step_reward)
        self._session.evaluated(env_steps, judged.summary, judged.mean_step_reward)
        return judged

    def state(self) -> dict[str, Any]:
        """Nothing: after a resume, candidates are looked for again."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `state`."""


def greedy(network: nn.Module) -> Greedy:
    """The greedy policy of a network of action values."""

    def act(observations: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        device = next(network.parameters()).device
        with torch.inference_mode():
            values = network(torch.from_numpy(observations).to(device))
        actions: npt.NDArray[np.int64] = values.argmax(dim=1).cpu().numpy()
        return actions

    return act
