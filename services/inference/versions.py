"""What the server holds: loaded versions, and which of them answers for which alias."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from services.common.errors import (
    DataCorrupted,
    ModelRejected,
    NotFound,
    TutelageError,
    Unavailable,
)
from services.common.outcomes import RowMaker
from services.common.registry import AliasState, PolicyManifest, PolicyRegistry
from services.common.spec import PolicySpec
from services.inference import metrics
from services.inference.batching import Batcher
from services.inference.decoding import Decoder
from services.inference.encoding import Encoder
from services.inference.recurrent import Recurrence
from services.inference.runner import PolicyRunner
from services.inference.session_states import Sessions
from services.inference.split import CANARY, STABLE, Split, split_of

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ServedVersion:
    """A version in memory, warmed and ready; equal only to itself.

    recurrence: of a recurrent policy: what is asked in the batcher's place.
    """

    manifest: PolicyManifest
    batcher: Batcher
    decoder: Decoder
    encoder: Encoder
    rows: RowMaker
    recurrence: Recurrence | None = None

    @property
    def spec(self) -> PolicySpec:
        """What it takes and gives."""
        return self.manifest.spec

    @property
    def bytes(self) -> int:
        """That it takes in memory, about."""
        return self.batcher.runner.bytes


@dataclass(frozen=True)
class PolicyState:
    """One policy as this server sees it. Replaced whole, never changed.

    manifests: of every published version, oldest first, as far as they can be read.
    damaged: why the manifest of a published version cannot be read.
    aliases: where the repository points them.
    serving: what this server answers with for each.
    """

    name: str
    manifests: Mapping[int, PolicyManifest] = field(default_factory=dict)
    damaged: Mapping[int, str] = field(default_factory=dict)
    aliases: Mapping[str, AliasState] = field(default_factory=dict)
    serving: Mapping[str, ServedVersion] = field(default_factory=dict)

    @property
    def spec(self) -> PolicySpec | None:
        """Of the version served as stable, else as anything, else of the newest."""
        served = self.serving.get("stable") or next(iter(self.serving.values()), None)
        if served is not None:
            return served.spec
        return self.manifests[max(self.manifests)].spec if self.manifests else None


class Catalogue:
    """Every policy by name. Readers see the state before a change or after it, never between."""

    def __init__(self) -> None:
        self._states: Mapping[str, PolicyState] = {}
        self._routes: Mapping[tuple[str, str], ServedVersion | Split] = {}
        self._stopped: set[tuple[str, int]] = set()

    def replace(self, state: PolicyState) -> None:
        """Put a policy's new state in place of its old one."""
        canary = state.aliases.get(CANARY)
        if canary is None or not canary.share:  # it may be tried again
            self._stopped = {(policy, v) for policy, v in self._stopped if policy != state.name}
        self._states = {**self._states, state.name: state}
        self._route()

    def stop_canary(self, policy: str, version: int) -> None:
        """Have `stable` answer all calls, until the canary has been without a share."""
        self._stopped.add((policy, version))
        self._route()

    def split(self, policy: str) -> Split | None:
        """How the calls for `stable` are shared out, if they are."""
        route = self._routes.get((policy, STABLE))
        return route if isinstance(route, Split) else None

    def _route(self) -> None:
        states, routes = self._states, dict[tuple[str, str], ServedVersion | Split]()
        for known in states.values():
            answering: Mapping[str, ServedVersion | Split] = known.serving
            if (split := split_of(known, self._stopped)) is not None:
                answering = {**known.serving, STABLE: split}
            for alias, served in answering.items():
                routes[known.name, alias] = served
                if len(states) == 1:
                    routes["", alias] = served
        self._routes = routes

    def is_serving(self, policy: str, version: int) -> bool:
        """Whether the version answers for an alias."""
        state = self._states.get(policy)
        return state is not None and any(
            served.manifest.version == version for served in state.serving.values()
        )

    def route(self, policy: str, alias: str) -> ServedVersion | Split | None:
        """The version that answers for an alias, or those that share its calls; the policy may be
        "" if there is only one."""
        return self._routes.get((policy, alias))

    def states(self) -> list[PolicyState]:
        """All policies by name."""
        return [self._states[name] for name in sorted(self._states)]

    def get(self, policy: str) -> PolicyState | None:
        """The state of a policy, if there is such a one."""
        return self._states.get(policy)

    def find(self, policy: str) -> PolicyState:
        """The state of a policy; of the only one there is for "".

        Raises:
            NotFound: naming those there are.
        """
        if not self._states:
            raise NotFound("nothing has been published yet; start a training run first")
        known = ", ".join(sorted(self._states))
        if not policy and len(self._states) > 1:
            raise NotFound(f"several policies are served, name one of: {known}")
        state = self._states.get(policy) if policy else next(iter(self._states.values()))
        if state is None:
            raise NotFound(f"no policy {policy!r}; there are: {known}")
        return state


@dataclass(frozen=True)
class _Refusal:
    kind: type[TutelageError]
    reason: str
    until: float


class Loader:
    """Loads versions in threads, each once, and keeps the most recently used.

    Those that answer for an alias stay, whatever memory they take.

    Keeping them makes a rollback and a pinned call free of loading. A version that was
    refused is not tried again for `retry_s`.
    """

    def __init__(
        self,
        registry: PolicyRegistry,
        make_runner: Callable[[bytes, PolicySpec], PolicyRunner],
        make_batcher: Callable[[PolicyRunner, PolicyManifest], Batcher],
        sessions: Sessions,
        *,
        is_serving: Callable[[str, int], bool],
        max_loaded: int,
        max_loaded_bytes: int,
        retry_s: float,
        max_model_bytes: int,
    ) -> None:
        self._registry = registry
        self._make_runner = make_runner
        self._make_batcher = make_batcher
        self._sessions = sessions
        self._is_serving = is_serving
        self._max_loaded, self._max_loaded_bytes = max_loaded, max_loaded_bytes
        self._is_beyond = False
        self._retry_s = retry_s
        self._max_model_bytes = max_model_bytes
        self._lock = threading.Lock()  # a transport may ask for `ready` from a thread of its own
        self._ready: OrderedDict[tuple[str, int], ServedVersion] = OrderedDict()
        self._by_policy: dict[str, int] = {}
        self._loading: dict[tuple[str, int], asyncio.Task[ServedVersion]] = {}
        self._refused: dict[tuple[str, int], _Refusal] = {}

    def ready(self, policy: str, version: int) -> ServedVersion | None:
        """The version if it is in memory."""
        with self._lock:
            served = self._ready.get((policy, version))
            if served is not None:
                self._ready.move_to_end((policy, version))
            return served

    def has(self, policy: str, version: int) -> bool:
        """Whether the version is in memory; not counted as a use."""
        return (policy, version) in self._ready

    def refusal(self, policy: str, version: int) -> str:
        """Why the version was refused when last tried; empty when it was not."""
        refusal = self._refused.get((policy, version))
        return refusal.reason if refusal else ""

    def refuse(self, policy: str, version: int, error: TutelageError) -> None:
        """Remember why a version is not served, and log it unless that is known already."""
        if self.refusal(policy, version) != str(error):
            metrics.LOAD_FAILURES.labels(policy).inc()
            log.error("version refused", policy=policy, version=version, reason=str(error))
        until = time.monotonic() + self._retry_s
        self._refused[policy, version] = _Refusal(type(error), str(error), until)

    def keep(self, served: ServedVersion) -> None:
        """Count a version as just used, and forget those unused for longest if need be."""
        key = served.manifest.policy, served.manifest.version
        with self._lock:
            self._ready[key] = served
            self._ready.move_to_end(key)
        self.forget_unused()

    def forget_unused(self) -> None:
        """Forget versions beyond the limits, but for the one used last."""
        with self._lock:
            unused = [key for key in self._ready if not self._is_serving(*key)]
            last = next(reversed(self._ready), None)
            for i, key in enumerate(unused):
                too_many = len(unused) - i > self._max_loaded
                if key != last and (too_many or self._loaded_bytes() > self._max_loaded_bytes):
                    del self._ready[key]
                    metrics.UNLOADED.labels(key[0]).inc()
            by_policy = self._bytes_by_policy()
        for policy, count in by_policy.items():
            metrics.LOADED_BYTES.labels(policy).set(count)
        self._warn_if_beyond(sum(by_policy.values()))

    def _loaded_bytes(self) -> int:
        return sum(served.bytes for served in self._ready.values())

    def _bytes_by_policy(self) -> dict[str, int]:
        self._by_policy = dict.fromkeys(self._by_policy, 0)
        for (policy, _), served in self._ready.items():
            self._by_policy[policy] = self._by_policy.get(policy, 0) + served.bytes
        return self._by_policy

    def _warn_if_beyond(self, loaded: int) -> None:
        is_beyond = loaded > self._max_loaded_bytes
        if is_beyond and not self._is_beyond:
            log.warning(
                "versions in use take more memory than is set",
                loaded_mib=loaded >> 20,
                limit_mib=self._max_loaded_bytes >> 20,
            )
        self._is_beyond = is_beyond

    async def load(self, policy: str, version: int) -> ServedVersion:
        """The version, loaded and warmed in a thread unless it is in memory.

        Raises:
            NotFound: when it is not published.
            ModelRejected: when it must not be served.
            Unavailable: when the repository cannot be read.
        """
        served = self.ready(policy, version)
        if served is not None:
            return served
        key = policy, version
        refusal = self._refused.get(key)
        if refusal is not None and time.monotonic() < refusal.until:
            raise refusal.kind(refusal.reason)
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(policy, version))
            task.add_done_callback(lambda _: self._loading.pop(key))
        # A caller that leaves must not stop the load for the others.
        return await asyncio.shield(task)

    async def _load(self, policy: str, version: int) -> ServedVersion:
        started = time.perf_counter()
        try:
            manifest, runner = await asyncio.to_thread(self._read, policy, version)
        except NotFound:
            raise
        except TutelageError as error:
            self.refuse(policy, version, error)
            raise
        except OSError as error:
            unavailable = Unavailable(f"the policy repository cannot be read: {error}")
            self.refuse(policy, version, unavailable)
            raise unavailable from error
        batcher = self._make_batcher(runner, manifest)
        decoder, encoder = Decoder(manifest.spec.observation), Encoder(manifest)
        recurrence = None
        if manifest.spec.state:
            recurrence = Recurrence(manifest, batcher, encoder, self._sessions)
        rows = RowMaker(manifest.spec)
        served = ServedVersion(manifest, batcher, decoder, encoder, rows, recurrence)
        self._refused.pop((policy, version), None)
        self.keep(served)
        load_ms = round((time.perf_counter() - started) * 1000, 1)
        log.info(
            "loaded",
            policy=policy,
            version=version,
            load_ms=load_ms,
            run_us=round(runner.run_s(1) * 1e6, 1),
            padded_to=runner.min_rows,
        )
        return served

    def _read(self, policy: str, version: int) -> tuple[PolicyManifest, PolicyRunner]:
        published = self._registry.load(policy, version, most_bytes=self._max_model_bytes)
        manifest = published.manifest
        if (manifest.policy, manifest.version) != (policy, version):
            raise ModelRejected(
                f"policy.json is of {manifest.policy} version {manifest.version}, "
                f"but stands in {policy}/{version}"
            )
        return manifest, self._make_runner(published.model, manifest.spec)


def read_policy(
    registry: PolicyRegistry, known: PolicyState
) -> tuple[dict[int, PolicyManifest], dict[int, str]]:
    """Manifests of all published versions, and why others cannot be read; blocking."""
    manifests: dict[int, PolicyManifest] = {}
    damaged: dict[int, str] = {}
    for version in registry.versions(known.name):
        try:
            manifests[version] = known.manifests.get(version) or registry.manifest(
                known.name, version
            )
        except DataCorrupted as error:
            damaged[version] = str(error)
        except NotFound:
            continue  # taken away since it was listed
    return manifests, damaged
