"""Publishes versions of policies, finds them again, and moves aliases between them.

Layout, on any fsspec path, readable by Triton as it stands:

    <policy>/config.pbtxt
    <policy>/aliases.json
    <policy>/<version>/model.onnx
    <policy>/<version>/policy.json
    <policy>/<version>/…          what else the publisher put there, named in policy.json
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from services.common.errors import (
    DataCorrupted,
    InvalidInput,
    ModelRejected,
    NotFound,
    PreconditionFailed,
)
from services.common.registry.manifest import AliasState, PolicyManifest
from services.common.registry.store import FolderStore
from services.common.registry.triton import model_configuration

MODEL = "model.onnx"
MANIFEST = "policy.json"
ALIASES = "aliases.json"
CONFIGURATION = "config.pbtxt"
REMEMBERED = 100  # earlier versions an alias can be rolled back through
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class PublishedVersion:
    """A version with its model, whose digest has been checked."""

    manifest: PolicyManifest
    model: bytes


def check_name(name: str, what: str) -> str:
    """Refuse a name that could not be a folder, a label and a URL part alike.

    Raises:
        InvalidInput: with what was expected.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"{what} {name!r} must be 1 to 63 of a-z, 0-9, '-' and '_', a letter or digit first"
        )
    return name


class PolicyRegistry:
    """The policy repository below one fsspec URL. Versions never change once published."""

    def __init__(self, url: str) -> None:
        self._store = FolderStore(url, marker=MANIFEST)
        self._published: set[str] = set()
        self.url = url

    def policies(self) -> list[str]:
        """Names of policies with at least one version, sorted."""
        return [n for n in self._store.folders() if NAME.fullmatch(n) and self.versions(n)]

    def versions(self, policy: str) -> list[int]:
        """Published versions, oldest first; empty for an unknown policy."""
        folders = self._store.folders(policy) if NAME.fullmatch(policy) else []
        numbers = (int(name) for name in folders if _VERSION.fullmatch(name))
        return sorted(n for n in numbers if self._is_published(f"{policy}/{n}"))

    def publish(
        self,
        policy: str,
        model: bytes,
        describe: Callable[[int, str], PolicyManifest],
        extra: Mapping[str, bytes] | None = None,
        told: Collection[int] = (),
    ) -> PolicyManifest:
        """Add a version; it is there whole or not at all. No alias moves.

        Published again by the same run, at the same step, with the same bytes (as after a
        crash between publishing and saying so), it is the version that is there.

        Args:
            describe: given the version number and model's digest, its manifest.
            extra: more files to keep beside the model, by name.
            told: versions that the run has told of; a run that goes on from before them may come
                by them again.

        Raises:
            StorageFull: when the disk is full; nothing is published then.
        """
        check_name(policy, "policy name")
        digest = _sha256(model)
        existing = self.versions(policy)
        for number in {*existing[-1:], *told}.intersection(existing):
            known = self._readable_manifest(policy, number)
            if known is not None and _origin(known) == _origin(describe(number, digest)):
                return known
        version = existing[-1] if existing else 0
        while True:
            version += 1
            digests = {name: _sha256(content) for name, content in (extra or {}).items()}
            manifest = describe(version, digest).model_copy(update={"files": digests})
            content = _json(manifest.model_dump(mode="json"))
            files = {MODEL: model, **(extra or {}), MANIFEST: content}
            if version == 1:
                self._write_configuration(policy, manifest)
            if self._store.create(f"{policy}/{version}", files):
                return manifest

    def manifest(self, policy: str, version: int) -> PolicyManifest:
        """policy.json of a version.

        Raises:
            NotFound: when the version is not published.
            DataCorrupted: when the file is not a manifest.
        """
        try:
            content = self._store.read(f"{_folder(policy)}/{version}/{MANIFEST}")
        except NotFound:
            raise NotFound(self._no_such_version(policy, version)) from None
        try:
            return PolicyManifest.model_validate_json(content)
        except ValidationError as error:
            raise DataCorrupted(f"{policy}/{version}/{MANIFEST} is damaged: {error}") from None

    def load(self, policy: str, version: int, *, most_bytes: int | None = None) -> PublishedVersion:
        """A version's manifest and model.

        Raises:
            NotFound: when the version is not published.
            ModelRejected: when the model's bytes are not those that were published, or too many.
        """
        manifest = self.manifest(policy, version)
        end = None if most_bytes is None else most_bytes + 1
        try:
            model = self._store.read(f"{policy}/{version}/{MODEL}", end)
        except NotFound:
            raise ModelRejected(f"{policy}/{version}/{MODEL} is missing") from None
        if end is not None and len(model) == end:
            raise ModelRejected(f"{policy}/{version}/{MODEL} has more than {most_bytes} bytes")
        digest = _sha256(model)
        if digest != manifest.sha256:
            raise ModelRejected(
                f"{policy}/{version}/{MODEL} has digest {digest[:12]}…, "
                f"{MANIFEST} expects {manifest.sha256[:12]}…: the file is damaged or was changed"
            )
        return PublishedVersion(manifest, model)

    def load_file(self, manifest: PolicyManifest, name: str) -> bytes:
        """A file that was published beside the model.

        Raises:
            NotFound: when the version has no such file.
            DataCorrupted: when its bytes are not those that were published.
        """
        path = f"{manifest.policy}/{manifest.version}/{name}"
        if name not in manifest.files:
            raise NotFound(f"{path} was not published")
        content = self._store.read(path)
        if _sha256(content) != manifest.files[name]:
            raise DataCorrupted(f"{path} is damaged or was changed: its digest differs")
        return content

    def aliases(self, policy: str) -> dict[str, AliasState]:
        """Every alias of a policy; empty when it has none.

        Raises:
            DataCorrupted: when the file is not one of aliases.
        """
        try:
            content = self._store.read(f"{_folder(policy)}/{ALIASES}")
        except NotFound:
            return {}
        try:
            return {n: AliasState.model_validate(s) for n, s in json.loads(content).items()}
        except (ValueError, AttributeError) as error:
            raise DataCorrupted(f"{policy}/{ALIASES} is damaged: {error}") from None

    def set_alias(self, policy: str, alias: str, version: int) -> AliasState:
        """Point an alias at a published version; remembers the one before.

        Raises:
            NotFound: when the version is not published.
            InvalidInput: when the alias is not a name.
        """
        check_name(alias, "alias")
        self.manifest(policy, version)

        def move(state: AliasState | None) -> AliasState:
            if state is None:
                return AliasState(version=version)
            if state.version == version:
                return state
            previous = (*state.previous, state.version)[-REMEMBERED:]
            return state.model_copy(update={"version": version, "previous": previous})

        return self._change_alias(policy, alias, move)

    def rollback(self, policy: str, alias: str) -> AliasState:
        """Point an alias back at the version it had before.

        Raises:
            NotFound: when there is no such policy.
            PreconditionFailed: when the alias had none.
        """
        if not self.versions(policy):
            raise NotFound(self._no_such_version(policy))

        def back(state: AliasState | None) -> AliasState:
            if state is None or not state.previous:
                raise PreconditionFailed(f"{policy}: alias {alias!r} has no version to go back to")
            *previous, version = state.previous
            return state.model_copy(update={"version": version, "previous": tuple(previous)})

        return self._change_alias(policy, alias, back)

    def set_share(self, policy: str, alias: str, share: float) -> AliasState:
        """Say which share of the calls for `stable` an alias has a part in; it stays as the alias
        moves.

        Raises:
            PreconditionFailed: when there is no such alias.
        """
        check_name(alias, "alias")

        def part(state: AliasState | None) -> AliasState:
            if state is None:
                raise PreconditionFailed(f"{policy}: alias {alias!r} points at no version yet")
            return state.model_copy(update={"share": share})

        return self._change_alias(policy, alias, part)

    def _is_published(self, path: str) -> bool:
        # Asked of every version at every look, while it can only change from no to yes.
        if path not in self._published and self._store.exists(path):
            self._published.add(path)
        return path in self._published

    def _readable_manifest(self, policy: str, version: int) -> PolicyManifest | None:
        try:
            return self.manifest(policy, version)
        except DataCorrupted:
            return None  # a damaged version must not stand in the way of a new one

    def _change_alias(
        self, policy: str, alias: str, change: Callable[[AliasState | None], AliasState]
    ) -> AliasState:
        with self._store.locked(policy):
            states = self.aliases(policy)
            states[alias] = change(states.get(alias))
            content = {name: _plain(state) for name, state in states.items()}
            self._store.replace(f"{policy}/{ALIASES}", _json(content))
            return states[alias]

    def _write_configuration(self, policy: str, manifest: PolicyManifest) -> None:
        text = model_configuration(policy, manifest.spec)
        self._store.replace(f"{policy}/{CONFIGURATION}", text.encode())

    def _no_such_version(self, policy: str, version: int = 0) -> str:
        versions = self.versions(policy)
        if versions:
            return f"policy {policy!r} has no version {version}, only {_list(versions)}"
        known = self.policies()
        return f"no policy {policy!r}; " + (
            f"there are: {', '.join(known)}" if known else "none has been published yet"
        )


def _folder(policy: str) -> str:
    """The policy's folder; what is no name, such as "../x", must not be looked for as one."""
    if not NAME.fullmatch(policy):
        raise NotFound(f"no policy {policy!r}")
    return policy


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _plain(state: AliasState) -> dict[str, object]:
    """As it is written: without a share where there is none, as before there were any."""
    return state.model_dump(mode="json", exclude=None if state.share else {"share"})


def _origin(manifest: PolicyManifest) -> tuple[str, int, str]:
    return manifest.run_id, manifest.env_steps, manifest.sha256


def _list(versions: list[int]) -> str:
    numbers = [str(version) for version in versions]
    return ", ".join(numbers if len(numbers) < 8 else [*numbers[:3], "…", *numbers[-3:]])


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
