"""Keeps what watches canaries, shadows and observations in step with what the aliases say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.common.errors import TutelageError
from services.inference import metrics
from services.inference.canary import CanaryGuard, CanaryLimits
from services.inference.drift import Drift, can_drift
from services.inference.shadow import Shadow
from services.inference.split import CANARY, SHADOW, STABLE, Split
from services.inference.versions import Catalogue, PolicyState

log = structlog.get_logger()


class Rollouts:
    """Watches the canaries and shadows of all policies. Made inside an event loop.

    Args:
        stop_canary: takes a canary's share from it, by policy and version.
        drift_s: between two batches of a version whose observations are looked at; 0: never.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        limits: CanaryLimits,
        stop_canary: Callable[[str, int], Awaitable[None]],
        drift_s: float = 0.0,
    ) -> None:
        self._catalogue, self._limits, self._stop_canary = catalogue, limits, stop_canary
        self._loop = asyncio.get_running_loop()
        self._guards: dict[str, CanaryGuard] = {}
        self._shadows: dict[str, Shadow] = {}
        self._drift_s, self._drifts = drift_s, dict[tuple[str, str], Drift]()
        self._stopping: set[asyncio.Task[None]] = set()

    def follow(self, state: PolicyState) -> None:
        """Watch what a policy's aliases say now."""
        self._follow_canary(state.name)
        self._follow_shadow(state)
        for alias in (STABLE, CANARY) if self._drift_s else ():
            self._follow_drift(state, alias)

    def close(self) -> None:
        """Watch nothing any more."""
        for guard in self._guards.values():
            guard.detach()
        for shadow in self._shadows.values():
            shadow.detach()
        for drift in self._drifts.values():
            drift.detach()

    def _follow_canary(self, policy: str) -> None:
        split, guard = self._catalogue.split(policy), self._guards.get(policy)
        metrics.CANARY_SHARE.labels(policy).set(split.share if split else 0.0)
        if guard is not None:
            if split is not None and _same(split, guard.split):
                return
            guard.detach()
            del self._guards[policy]
        if split is not None:
            guard = self._guards[policy] = CanaryGuard(split, self._limits, self._stopper(split))
            guard.attach()

    def _follow_shadow(self, state: PolicyState) -> None:
        stable, other = state.serving.get(STABLE), state.serving.get(SHADOW)
        share = state.aliases[SHADOW].share if SHADOW in state.aliases else 0.0
        known = self._shadows.get(state.name)
        wanted = stable is not None and other is not None and other is not stable and share > 0
        wanted = wanted and stable is not None and not stable.spec.state  # see `set_share`
        if known is not None:
            if wanted and (known.stable, known.shadow, known.share) == (stable, other, share):
                return
            known.detach()
            del self._shadows[state.name]
        if wanted:
            assert stable is not None
            assert other is not None
            shadow = self._shadows[state.name] = Shadow(state.name, stable, other, share)
            shadow.attach()

    def _follow_drift(self, state: PolicyState, alias: str) -> None:
        served, known = state.serving.get(alias), self._drifts.get((state.name, alias))
        if alias == CANARY and served is state.serving.get(STABLE):
            served = None  # it is looked at already
        if known is not None:
            if known.served is served:
                return
            known.detach()
            del self._drifts[state.name, alias]
        if served is not None and can_drift(served):
            drift = self._drifts[state.name, alias] = Drift(state.name, served, self._drift_s)
            drift.attach()

    def _stopper(self, split: Split) -> Callable[[str, str], None]:
        def stop(kind: str, reason: str) -> None:
            self._loop.call_soon_threadsafe(self._begin_to_stop, split, kind, reason)

        return stop

    def _begin_to_stop(self, split: Split, kind: str, reason: str) -> None:
        metrics.CANARY_STOPPED.labels(split.policy, kind).inc()
        version = split.canary.manifest.version
        log.error("canary stopped", policy=split.policy, version=version, reason=reason)
        task = self._loop.create_task(self._stop(split.policy, version))
        self._stopping.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._stopping.discard)

    async def _stop(self, policy: str, version: int) -> None:
        try:
            await self._stop_canary(policy, version)
        except TutelageError as error:
            log.error(
                "canary stopped here alone", policy=policy, version=version, reason=str(error)
            )


def _same(split: Split, other: Split) -> bool:
    return split.stable is other.stable and split.canary is other.canary
