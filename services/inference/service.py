"""Puts the parts of the inference service together and runs it."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor

from services.common.registry import PolicyRegistry
from services.common.server import run_service
from services.common.spec import PolicySpec
from services.inference.acting import Acting
from services.inference.batching import Batcher
from services.inference.core import PolicyCore
from services.inference.runner import PolicyRunner
from services.inference.servicer import policy_service
from services.inference.settings import InferenceSettings
from services.inference.versions import Catalogue, Loader
from services.inference.watcher import RepositoryWatcher


class InferenceService:
    """The core and the watcher behind one PolicyService. Made inside an event loop."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        registry, catalogue = PolicyRegistry(settings.policies_url), Catalogue()
        self._executor = ThreadPoolExecutor(settings.inference_threads, "inference")
        loader = Loader(
            registry,
            self._make_runner,
            self._make_batcher,
            max_loaded=settings.inference_max_loaded,
            retry_s=settings.inference_retry_s,
        )
        self.watcher = RepositoryWatcher(
            registry, catalogue, loader, poll_s=settings.inference_poll_s
        )
        self.core = PolicyCore(registry, catalogue, loader, self.watcher)

    def _make_runner(self, model: bytes, spec: PolicySpec) -> PolicyRunner:
        return PolicyRunner(
            model,
            spec,
            max_batch=self._settings.inference_max_batch,
            intra_op_threads=self._settings.inference_intra_op_threads,
        )

    def _make_batcher(self, runner: PolicyRunner, policy: str) -> Batcher:
        return Batcher(
            runner,
            policy=policy,
            executor=self._executor,
            max_batch=self._settings.inference_max_batch,
            queue_limit=self._settings.inference_queue_limit,
            inline_s=self._settings.inference_inline_us * 1e-6,
        )

    async def serve(self) -> None:
        """Serve until told to stop; ready once the repository has been looked at.

        Raises:
            ResourceExhausted: when the port is taken.
        """
        watching = asyncio.create_task(self.watcher.run())
        try:
            await run_service(
                [policy_service(self.core, Acting(self.core, draw_seed))],
                self._settings.server_options(),
                until_ready=self.watcher.scanned.wait,
            )
        finally:
            watching.cancel()
            self._executor.shutdown(wait=False, cancel_futures=True)


def draw_seed() -> int:
    """A seed in [1, 2^64); 0 is what a greedy reply carries."""
    return secrets.randbits(64) or 1
