"""Decides what the service answers, knowing nothing of gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from services.common.errors import (
    InvalidInput,
    ModelRejected,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from services.common.registry import AliasState, PolicyManifest, PolicyRegistry
from services.common.registry.registry import check_name
from services.inference.interface import check_interface
from services.inference.split import CANARY, SHADOW, STABLE, Split
from services.inference.versions import (
    Catalogue,
    Loader,
    PolicyState,
    ServedVersion,
)
from services.inference.watcher import RepositoryWatcher

R = TypeVar("R")


class VersionRefused(NotFound):
    """An alias points at a version that must not be served."""


class PolicyCore:
    """Finds the version that answers, and moves aliases."""

    def __init__(
        self,
        registry: PolicyRegistry,
        catalogue: Catalogue,
        loader: Loader,
        watcher: RepositoryWatcher,
    ) -> None:
        self._registry = registry
        self._catalogue = catalogue
        self._loader = loader
        self._watcher = watcher

    def served(self, policy: str, version: int, alias: str) -> ServedVersion | Split | None:
        """The version that answers, or those that share, if it is known by that name and in
        memory."""
        if version:
            return self._loader.ready(policy, version)
        return self._catalogue.route(policy, alias or STABLE)

    async def find(self, policy: str, version: int, alias: str) -> ServedVersion:
        """The version that answers; a pinned one is loaded if need be.

        Raises:
            NotFound: no such policy, version or alias, with those there are.
            ModelRejected: when the version must not be served.
        """
        if version < 0:
            raise InvalidInput(f"version is {version}, expected a version from 1, or 0 for none")
        state = self._catalogue.find(policy)
        if version:
            return _serving(state, version) or await self._loader.load(state.name, version)
        served = state.serving.get(alias or STABLE)
        if served is None:
            raise self._no_such_alias(state, alias or STABLE)
        return served

    def manifest(self, policy: str, version: int, alias: str) -> PolicyManifest:
        """What a version is, loaded or not.

        Raises:
            NotFound: no such policy, version or alias, with those there are.
            ModelRejected: when its manifest cannot be read.
        """
        state = self._catalogue.find(policy)
        if version in state.damaged:
            raise ModelRejected(state.damaged[version])
        if version and version not in state.manifests:
            raise NotFound(f"policy {state.name!r} has no version {version}")
        served = state.serving.get(alias or STABLE)
        if not version and served is None:
            raise NotFound(self._no_such_alias(state, alias or STABLE))
        return state.manifests[version] if served is None or version else served.manifest

    async def look(self, policy: str) -> PolicyState:
        """What is known of a policy when its folder has been looked at now.

        Raises:
            NotFound: naming those there are.
        """
        return await self._fresh(policy)

    def policy(self, policy: str) -> PolicyState:
        """What is known of a policy.

        Raises:
            NotFound: naming those there are.
        """
        return self._catalogue.find(policy)

    def policies(self) -> list[PolicyState]:
        """What is known of every policy, by name."""
        return self._catalogue.states()

    def is_loaded(self, policy: str, version: int) -> bool:
        """Whether a version is in memory."""
        state = self._catalogue.get(policy)
        serving = state is not None and _serving(state, version) is not None
        return serving or self._loader.has(policy, version)

    def load_error(self, policy: str, version: int) -> str:
        """Why a version is not served; empty when nothing speaks against it."""
        return self._loader.refusal(policy, version)

    async def set_alias(self, policy: str, alias: str, version: int) -> tuple[int, int]:
        """Point an alias at a version that can be served.

        Returns:
            The version it points at now, and the one before (0 when the alias is new).

        Raises:
            NotFound: no such policy or version.
            PreconditionFailed: when the version cannot be served, with the reason.
        """
        if version < 1:
            raise InvalidInput(f"version is {version}, expected a published version, from 1")
        check_name(alias, "alias")
        state = await self._fresh(policy)
        await self._check_servable(state, alias, version)
        before = await self._aliases(state.name)
        after = await self._in_thread(self._registry.set_alias, state.name, alias, version)
        await self._watcher.refresh(state.name)
        return after.version, before[alias].version if alias in before else 0

    async def roll_back(self, policy: str, alias: str) -> tuple[int, int]:
        """Point an alias back at the version it had before.

        Returns:
            As `set_alias`.

        Raises:
            NotFound: no such policy.
            PreconditionFailed: when there is no version before, or it cannot be served.
        """
        check_name(alias, "alias")
        state = await self._fresh(policy)
        before = await self._aliases(state.name)
        if alias in before and before[alias].previous:
            await self._check_servable(state, alias, before[alias].previous[-1])
        after = await self._in_thread(self._registry.rollback, state.name, alias)
        await self._watcher.refresh(state.name)
        return after.version, before[alias].version

    async def set_share(self, policy: str, alias: str, share: float) -> None:
        """Say which share of the calls for `stable` an alias has a part in; see `check_share`.

        Raises:
            NotFound: no such policy.
            PreconditionFailed: when the alias points at nothing, or at what callers of `stable`
                could not talk to; or when a recurrent policy is to have a shadow, which would have
                to be shown all that a session sees, and is shown no more than it has time for.
        """
        state = await self._fresh(policy)
        if share and alias == SHADOW and state.spec is not None and state.spec.state:
            raise PreconditionFailed(f"{state.name} is recurrent, and such policies have no shadow")
        if share and alias in state.aliases:
            await self._check_servable(state, STABLE, state.aliases[alias].version)
        await self._in_thread(self._registry.set_share, state.name, alias, share)
        await self._watcher.refresh(state.name)

    async def stop_canary(self, policy: str, version: int) -> None:
        """Have `stable` answer all calls: here at once, and everywhere by the repository.

        Raises:
            Unavailable: when the repository cannot be used; here it has stopped all the same.
        """
        self._catalogue.stop_canary(policy, version)
        await self._in_thread(self._registry.set_share, policy, CANARY, 0.0)
        await self._watcher.refresh(policy)

    async def _fresh(self, policy: str) -> PolicyState:
        # A version published a moment ago may be promoted before the watcher has seen it.
        if policy:
            await self._watcher.refresh(policy)
        return self._catalogue.find(policy)

    async def _check_servable(self, state: PolicyState, alias: str, version: int) -> None:
        try:
            wanted = await self._loader.load(state.name, version)
            current = state.serving.get(alias)
            if current is not None:
                check_interface(wanted.manifest, current.manifest)
        except ModelRejected as error:
            raise PreconditionFailed(
                f"{state.name} version {version} cannot be served: {error}"
            ) from error

    async def _aliases(self, policy: str) -> dict[str, AliasState]:
        return await self._in_thread(self._registry.aliases, policy)

    async def _in_thread(self, call: Callable[..., R], *arguments: object) -> R:
        try:
            return await asyncio.to_thread(call, *arguments)
        except OSError as error:
            raise Unavailable(f"the policy repository cannot be used: {error}") from error

    def _no_such_alias(self, state: PolicyState, alias: str) -> NotFound:
        if alias in state.aliases:
            version = state.aliases[alias].version
            reason = self._loader.refusal(state.name, version)
            return VersionRefused(
                f"{state.name}: alias {alias!r} points at version {version}, refused: {reason}"
            )
        known = ", ".join(sorted(state.aliases)) or "none yet"
        return NotFound(f"policy {state.name!r} has no alias {alias!r}; there are: {known}")


def _serving(state: PolicyState, version: int) -> ServedVersion | None:
    found = (served for served in state.serving.values() if served.manifest.version == version)
    return next(found, None)
