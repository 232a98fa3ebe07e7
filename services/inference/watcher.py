"""Follows the policy repository: loads what aliases point at, then swaps one reference.

Whatever is wrong with the repository, what is being served goes on being served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from services.common.errors import DataCorrupted, NotFound, TutelageError
from services.common.registry import AliasState, PolicyRegistry
from services.inference import metrics
from services.inference.interface import check_interface
from services.inference.versions import (
    Catalogue,
    Loader,
    PolicyState,
    ServedVersion,
    read_policy,
)

log = structlog.get_logger()
FALLBACKS = 5  # earlier versions tried when an alias's own cannot be served and none is yet


class RepositoryWatcher:
    """Keeps the catalogue in step with the repository.

    on_change: told of each policy that was looked at.
    """

    def __init__(
        self, registry: PolicyRegistry, catalogue: Catalogue, loader: Loader, *, poll_s: float
    ) -> None:
        self.scanned = asyncio.Event()
        self.on_change: Callable[[PolicyState], None] = lambda state: None
        self._registry = registry
        self._catalogue = catalogue
        self._loader = loader
        self._poll_s = poll_s
        self._turn = asyncio.Lock()
        self._trouble: dict[str, str] = {}

    async def run(self) -> None:
        """Look at the repository again and again, until cancelled."""
        while True:
            await self.scan()
            await asyncio.sleep(self._poll_s)

    async def scan(self) -> None:
        """Look at the whole repository once; trouble is logged, and never raised."""
        try:
            names = await asyncio.to_thread(self._registry.policies)
        except Exception as error:  # noqa: BLE001 - any file system may be behind the registry
            self._report("", error)
            return
        self._recovered("")
        known = {state.name for state in self._catalogue.states()}
        for name in sorted(known | set(names)):
            await self.refresh(name)
        self.scanned.set()

    async def refresh(self, policy: str) -> None:
        """Look at one policy; trouble is logged, and never raised."""
        async with self._turn:
            try:
                await self._refresh(policy)
            except Exception as error:  # noqa: BLE001 - any file system may be behind the registry
                self._report(policy, error)
            else:
                self._recovered(policy)

    async def _refresh(self, policy: str) -> None:
        before = self._catalogue.get(policy) or PolicyState(policy)
        manifests, damaged = await asyncio.to_thread(read_policy, self._registry, before)
        if not manifests and not damaged:
            if before.manifests:
                raise DataCorrupted("the policy is gone from the repository; still serving it")
            return
        aliases, trouble = await self._aliases(before)
        serving = await self._serving(before, aliases)
        after = PolicyState(policy, manifests, damaged, aliases, serving)
        self._catalogue.replace(after)
        self._loader.forget_unused()  # among which may be what answered before
        self.on_change(after)
        self._announce(before, after)
        if trouble is not None:
            raise trouble

    async def _aliases(
        self, before: PolicyState
    ) -> tuple[Mapping[str, AliasState], DataCorrupted | None]:
        try:
            aliases = await asyncio.to_thread(self._registry.aliases, before.name)
        except DataCorrupted as error:
            return before.aliases, error
        if before.aliases and not aliases:  # which nobody can ask for
            gone = "the policy's aliases are gone from the repository; still following them"
            return before.aliases, DataCorrupted(gone)
        return aliases, None

    async def _serving(
        self, before: PolicyState, aliases: Mapping[str, AliasState]
    ) -> dict[str, ServedVersion]:
        serving = {}
        for alias, state in aliases.items():
            served = await self._follow(before.name, state, before.serving.get(alias))
            if served is not None:
                serving[alias] = served
        return serving

    async def _follow(
        self, policy: str, state: AliasState, current: ServedVersion | None
    ) -> ServedVersion | None:
        if current is not None:
            if current.manifest.version == state.version:
                return current
            wanted = await self._try(policy, state.version)
            if wanted is None or not self._fits(policy, wanted, current):
                return current
            self._loader.keep(current)  # for a rollback
            return wanted
        for version in (state.version, *reversed(state.previous[-FALLBACKS:])):
            served = await self._try(policy, version)
            if served is not None:
                return served
        return None

    async def _try(self, policy: str, version: int) -> ServedVersion | None:
        try:
            return await self._loader.load(policy, version)
        except NotFound as error:
            self._loader.refuse(policy, version, error)
        except TutelageError:
            pass  # the loader has logged it, and remembers it
        return None

    def _fits(self, policy: str, wanted: ServedVersion, current: ServedVersion) -> bool:
        try:
            check_interface(wanted.manifest, current.manifest)
        except TutelageError as error:
            self._loader.refuse(policy, wanted.manifest.version, error)
            return False
        return True

    def _announce(self, before: PolicyState, after: PolicyState) -> None:
        for alias, served in after.serving.items():
            if before.serving.get(alias) is served:
                continue
            manifest = served.manifest
            metrics.SERVING.labels(after.name, alias).set(manifest.version)
            if alias in before.serving:
                metrics.SERVED.remove(*_labels(alias, before.serving[alias]))
            metrics.SERVED.labels(*_labels(alias, served)).set(1)
            log.info(
                "serving",
                policy=after.name,
                version=manifest.version,
                alias=alias,
                digest=manifest.sha256[:12],
            )

    def _report(self, policy: str, error: Exception) -> None:
        metrics.REPOSITORY_ERRORS.inc()
        if self._trouble.get(policy) != str(error):
            self._trouble[policy] = str(error)
            log.error(
                "policy repository trouble",
                repository=self._registry.url,
                policy=policy or None,
                reason=str(error),
            )

    def _recovered(self, policy: str) -> None:
        if self._trouble.pop(policy, None) is not None:
            log.info("policy repository readable again", policy=policy or None)


def _labels(alias: str, served: ServedVersion) -> tuple[str, str, str, str]:
    manifest = served.manifest
    return manifest.policy, alias, str(manifest.version), manifest.sha256
