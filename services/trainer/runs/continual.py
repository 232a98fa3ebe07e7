"""Learns on from what the clients of the served policy meet, and publishes what got better."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import (
    NotFound,
    PreconditionFailed,
    ReplayUnavailable,
    StorageFull,
)
from services.common.outcomes import outcomes_replay
from services.common.registry import PolicyManifest, PolicyRegistry
from services.common.replay import MirrorReplay, ReplayStore, patiently
from services.common.replay.policy_schema import replay_schema
from services.common.spec import PolicySpec
from services.trainer.config import ContinualRun
from services.trainer.divergence import check_finite
from services.trainer.learning import Learning, Moment
from services.trainer.networks import QNetwork
from services.trainer.resources import Resources
from services.trainer.runs.loop import LoopParts, TrainingLoop
from services.trainer.runs.off_policy import sampling
from services.trainer.weights import WEIGHTS, load_weights

POLL_S = 0.2
AT_ONCE = 256


@dataclass(frozen=True)
class Parts(LoopParts):
    """What a continual run is put together from."""

    spec: PolicySpec
    resources: Resources
    learning: Learning


class ContinualLoop(TrainingLoop):
    """Follows a replay that the inference service fills; a step is one that a client took."""

    def __init__(self, config: ContinualRun, replay: MirrorReplay, parts: Parts) -> None:
        self._config, self._replay, self._parts = config, replay, parts
        self._heard = self._waiting = 0
        super().__init__(config, config.dqn.total_env_steps, parts, parts.learning.learner)

    def state(self) -> dict[str, Any]:
        """See TrainingLoop."""
        heard = self._heard - self._waiting
        return {"learning": self._parts.learning.state(), "heard": heard}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See TrainingLoop."""
        self._parts.learning.restore(state["learning"])
        self._heard = state["heard"]

    def step(self) -> None:
        """Learn as much as some of the steps allow that were reported; wait where none were."""
        if not self._waiting:
            self._hear()
        if not self._waiting:
            time.sleep(POLL_S)
            return
        steps = min(self._waiting, AT_ONCE)
        self._waiting -= steps
        self.env_steps += steps
        if self._replay.size >= self._config.replay.min_replay_size:
            self._learn(steps)

    def close(self) -> None:
        """Return once the replay has the priorities of this run."""
        self._patiently(self._replay.close)

    def _hear(self) -> None:
        """Copy what was reported since; at first, all that is there counts."""
        self._patiently(self._replay.sync)
        new = self._replay.inserted - self._heard
        self._heard += new
        self._waiting = max(0, min(new, self._replay.size))

    def _learn(self, steps: int) -> None:
        parts, rates = self._parts, self._config.dqn
        moment = Moment(self.env_steps / rates.total_env_steps, epsilon=0.0)
        figures = parts.learning.take(steps, self._replay, moment)
        if figures:
            check_finite(figures, parts.checkpoints.steps)
            figures["replay_size"] = float(self._replay.size)
            figures["replay_ratio"] = self._saved.updates * rates.batch_size / self.env_steps
            parts.session.metrics(self.env_steps, figures)

    def _patiently(self, operation: Any) -> Any:
        session = self._parts.session
        return patiently(
            operation, on_wait=session.waiting, should_stop=lambda: session.should_stop
        )


def run(config: ContinualRun, parts: Parts) -> bool:
    """Train until finished (True) or asked to stop (False), waiting for outcomes to come.

    Raises:
        PreconditionFailed: when the replay holds steps of another kind of policy.
    """
    loop: ContinualLoop | None = None
    try:
        replay = _await_replay(config, parts)
        if replay is None:
            return False
        loop = ContinualLoop(config, replay, parts)
        finished = loop.run()
        loop.close()
        return finished
    except (ReplayUnavailable, StorageFull):
        if not parts.session.should_stop:
            raise
        if loop is not None:
            loop.save()
        return False


def _await_replay(config: ContinualRun, parts: Parts) -> MirrorReplay | None:
    """The replay, once the inference service has made it; None when asked to stop before."""
    session, name = parts.session, config.replay.name or outcomes_replay(config.policy)
    told = False
    while not session.should_stop:
        try:
            return patiently(
                lambda: _open(config, parts, name),
                on_wait=session.waiting,
                should_stop=lambda: session.should_stop,
            )
        except NotFound:
            if not told:
                session.say(
                    f"waiting for outcomes: there is no replay {name} yet. Ask {config.policy} "
                    "for actions with track, and report what comes of them"
                )
            told = True
        time.sleep(POLL_S)
    return None


def _open(config: ContinualRun, parts: Parts, name: str) -> MirrorReplay:
    store = ReplayStore.open_existing(parts.resources.redis, name)
    expected = replay_schema(parts.spec, 1)
    if store.schema != expected:
        raise PreconditionFailed(
            f"replay {name} holds {store.schema.dtype}, but {config.environment.id} is "
            f"{expected.dtype}; is it the environment that the policy acts in?"
        )
    newest = min(config.replay.capacity, store.capacity)
    return MirrorReplay(
        store,
        sampling(config.dqn, parts.generator),
        sampler_name=f"newest-{newest}",
        window=newest,
    )


def starting_network(
    config: ContinualRun, registry: PolicyRegistry, alias: str
) -> tuple[QNetwork, PolicyManifest]:
    """The network of the version that an alias points at.

    Raises:
        PreconditionFailed: when there is none, or it is not what the configuration says.
    """
    otherwise = "or begin with a fresh network: start_alias null"
    state = registry.aliases(config.policy).get(alias)
    if state is None:
        raise PreconditionFailed(
            f"policy {config.policy!r} has no version {alias!r}; train one first, {otherwise}"
        )
    manifest = registry.manifest(config.policy, state.version)
    named = f"{config.policy} version {state.version}, by {manifest.algorithm},"
    if WEIGHTS not in manifest.files:
        raise PreconditionFailed(
            f"{named} has no action values to train on from; point {alias} at a version by DQN, "
            f"{otherwise}"
        )
    network = load_weights(registry.load_file(manifest, WEIGHTS), manifest)
    if not isinstance(network, QNetwork) or network.config != config.network:
        raise PreconditionFailed(
            f"{named} has another network than this run; set network as that version's run had "
            f"it, {otherwise}"
        )
    return network, manifest
