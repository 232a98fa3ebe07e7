"""Puts the parts of the inference service together and runs it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.common.errors import InvalidConfig
from services.common.registry import PolicyManifest, PolicyRegistry
from services.common.server import run_service
from services.common.server.access import guarded
from services.common.server.watching import watched
from services.common.spec import PolicySpec
from services.inference.acting import Acting
from services.inference.batching import Batcher
from services.inference.core import PolicyCore
from services.inference.fallback import Fallback
from services.inference.feeding import Feeding
from services.inference.lanes import Lanes
from services.inference.oip.servicer import ROLES as MODEL_ROLES
from services.inference.oip.servicer import open_inference_service
from services.inference.outcome_stores import OutcomeStores
from services.inference.records import Records
from services.inference.reporting import Reporting
from services.inference.rollouts import Rollouts
from services.inference.runner import PolicyRunner
from services.inference.servicer import ROLES, policy_service
from services.inference.session_states import Sessions
from services.inference.settings import MIB, InferenceSettings
from services.inference.tracking import Tracker
from services.inference.trials import Trials
from services.inference.versions import Catalogue, Loader
from services.inference.watcher import RepositoryWatcher

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

CLOSE_S = 5.0


class InferenceService:
    """The core and the watcher behind the services. Made inside an event loop.

    Raises:
        InvalidConfig: see `outcome_stores` and `Records`.

    Args:
        trials: what has models tried.
        traces: where spans of calls are sent; None: there are none.
    """

    def __init__(
        self, settings: InferenceSettings, trials: Trials, traces: TracerProvider | None = None
    ) -> None:
        self._settings, self._access, self._trials = settings, settings.access(), trials
        self._records = Records(settings, self._access, traces)
        registry, catalogue = PolicyRegistry(settings.policies_url), Catalogue()
        self._executor = ThreadPoolExecutor(settings.inference_threads, "inference")
        most = settings.inference_policy_threads or settings.inference_threads
        self._lanes = Lanes(self._executor, most)
        loader = Loader(
            registry,
            self._make_runner,
            self._make_batcher,
            Sessions(settings.session_limits()),
            is_serving=catalogue.is_serving,
            max_loaded=settings.inference_max_loaded,
            max_loaded_bytes=settings.inference_max_loaded_mib * MIB,
            retry_s=settings.inference_retry_s,
            max_model_bytes=settings.inference_max_model_mib * MIB,
        )
        self.watcher = RepositoryWatcher(
            registry, catalogue, loader, poll_s=settings.inference_poll_s
        )
        self.core = PolicyCore(registry, catalogue, loader, self.watcher)
        self._fallback = Fallback(
            self.core, settings.inference_default_actions, self._records.decisions
        )
        self._rollouts = Rollouts(
            catalogue,
            settings.canary_limits(),
            self.core.stop_canary,
            settings.inference_drift_period_ms / 1000,
        )
        self.watcher.on_change = self._rollouts.follow
        self._stores = outcome_stores(settings)
        self._stopping = asyncio.Event()

    def _is_ready(self) -> bool:
        return self.watcher.scanned.is_set() and not self._stopping.is_set()

    def _make_runner(self, model: bytes, spec: PolicySpec) -> PolicyRunner:
        return PolicyRunner(
            model,
            spec,
            max_batch=self._settings.inference_max_batch,
            intra_op_threads=self._settings.inference_intra_op_threads,
            tried=self._trials.run(model, spec),
        )

    def _make_batcher(self, runner: PolicyRunner, manifest: PolicyManifest) -> Batcher:
        batcher = Batcher(
            runner,
            policy=manifest.policy,
            executor=self._lanes.of(manifest.policy),
            max_batch=self._settings.inference_max_batch,
            queue_limit=self._settings.inference_queue_limit,
            inline_s=self._settings.inference_inline_us * 1e-6,
        )
        batcher.observers = self._records.observers(manifest)
        return batcher

    async def serve(self) -> None:
        """Serve until told to stop; ready once the repository has been looked at.

        Raises:
            ResourceExhausted: when the port is taken.
        """
        watching = asyncio.create_task(self.watcher.run())
        watchers = self._records.watchers()
        try:
            with outcomes_kept(self.core, self._stores) as (tracker, reporting):
                acting = Acting(
                    self.core,
                    self._fallback,
                    draw_seed,
                    tracker,
                    track_all=self._settings.inference_track_all,
                    logged=self._records.decisions is not None,
                    noted=bool(watchers),
                )
                policies = policy_service(self.core, acting, reporting)
                models = open_inference_service(self.core, acting, self._is_ready)
                tables = [
                    guarded(policies, ROLES, self._access),
                    guarded(models, MODEL_ROLES, self._access),
                ]
                await run_service(
                    [watched(table, watchers) for table in tables],
                    self._settings.server_options(),
                    until_ready=self.watcher.scanned.wait,
                    on_stop=self._stopping.set,
                )
        finally:
            watching.cancel()
            self._rollouts.close()
            self._trials.close()
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._records.close(CLOSE_S)


def outcome_stores(settings: InferenceSettings) -> OutcomeStores | None:
    """Where decisions and outcomes are kept; None: nowhere.

    Raises:
        InvalidConfig: when each decision is to be tracked, and there is no Redis for it.
    """
    if settings.redis_url is not None:
        return OutcomeStores(settings.redis_url, settings.outcome_limits())
    if settings.inference_track_all:
        raise InvalidConfig("TUTELAGE_INFERENCE_TRACK_ALL needs a Redis: set TUTELAGE_REDIS_URL")
    return None


@contextmanager
def outcomes_kept(
    core: PolicyCore, stores: OutcomeStores | None
) -> Iterator[tuple[Tracker | None, Reporting]]:
    """What keeps decisions and outcomes, and puts what is joined into the replays; in order."""
    reporting = Reporting(core, stores)
    if stores is None:
        yield None, reporting
        return
    tracker, feeding = Tracker(stores), Feeding(stores)
    try:
        yield tracker, reporting
    finally:
        for part in (tracker, reporting, feeding):
            part.close(CLOSE_S)


def draw_seed() -> int:
    """A seed in [1, 2^64); 0 is what a greedy reply carries."""
    return secrets.randbits(64) or 1
