"""The policy repository, on a local disk and on a file system that cannot rename folders."""

from __future__ import annotations

import errno
import json
import os
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest

from services.common.errors import (
    DataCorrupted,
    InvalidInput,
    ModelRejected,
    NotFound,
    PreconditionFailed,
    StorageFull,
)
from services.common.registry import AliasState, Evaluation, PolicyManifest, PolicyRegistry
from services.common.registry.store import FolderStore
from services.common.spec import Distribution, ObservationSpace, PolicySpec

SPEC = PolicySpec(
    environment="CartPole-v1",
    observation=ObservationSpace(dtype="float32", shape=(4,)),
    actions=2,
    distribution=Distribution.Q_VALUES,
)


@pytest.fixture(params=["local", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PolicyRegistry]:
    if request.param == "local":
        yield PolicyRegistry(str(tmp_path / "policies"))
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield PolicyRegistry(url)
    if fsspec.filesystem("memory").exists(url):
        fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.fixture
def on_disk(tmp_path: Path) -> PolicyRegistry:
    return PolicyRegistry(str(tmp_path / "policies"))


def publish(
    registry: PolicyRegistry,
    model: bytes = b"model",
    *,
    policy: str = "cartpole",
    run_id: str = "run",
    env_steps: int = 0,
    extra: dict[str, bytes] | None = None,
) -> PolicyManifest:
    """A version of a run; `model` stands for ONNX, which the repository does not look into."""

    def describe(version: int, digest: str) -> PolicyManifest:
        return PolicyManifest(
            policy=policy,
            version=version,
            spec=SPEC,
            algorithm="dqn",
            run_id=run_id,
            env_steps=env_steps,
            evaluation=Evaluation(episodes=1, mean_return=1, min_return=1, max_return=1),
            sha256=digest,
            published_at=datetime.now(UTC),
        )

    return registry.publish(policy, model, describe, extra)


def overwrite(registry: PolicyRegistry, path: str, content: bytes) -> None:
    """Damage a file of the repository."""
    with fsspec.open(f"{registry.url}/{path}", "wb") as file:
        file.write(content)


def test_what_is_published_can_be_loaded(registry: PolicyRegistry) -> None:
    manifest = publish(registry, b"weights", extra={"extra.bin": b"more"})
    loaded = registry.load("cartpole", 1)
    assert (loaded.model, loaded.manifest) == (b"weights", manifest)
    assert registry.load_file(manifest, "extra.bin") == b"more"
    assert registry.policies() == ["cartpole"]


def test_versions_count_up_as_numbers(registry: PolicyRegistry) -> None:
    for step in range(11):
        publish(registry, env_steps=step)
    assert registry.versions("cartpole") == list(range(1, 12))


def test_an_unknown_policy_has_nothing(registry: PolicyRegistry) -> None:
    assert registry.policies() == []
    assert registry.versions("cartpole") == []
    assert registry.aliases("cartpole") == {}


def test_what_is_not_there_is_named_with_what_is(registry: PolicyRegistry) -> None:
    with pytest.raises(NotFound, match="no policy 'ghost'; none has been published yet"):
        registry.manifest("ghost", 1)
    publish(registry)
    with pytest.raises(NotFound, match="no policy 'ghost'; there are: cartpole"):
        registry.load("ghost", 1)
    with pytest.raises(NotFound, match="policy 'cartpole' has no version 2, only 1"):
        registry.load("cartpole", 2)


def test_published_again_after_a_crash_it_is_the_version_that_is_there(
    registry: PolicyRegistry,
) -> None:
    first = publish(registry, b"a", run_id="run", env_steps=5)
    assert publish(registry, b"a", run_id="run", env_steps=5) == first
    assert publish(registry, b"b", run_id="run", env_steps=5).version == 2
    assert publish(registry, b"b", run_id="run", env_steps=6).version == 3
    assert publish(registry, b"b", run_id="other", env_steps=6).version == 4


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "../up", "-a", "a b", "a.b", "x" * 64, "a\n"])
def test_names_that_could_not_be_folders_are_refused(registry: PolicyRegistry, name: str) -> None:
    with pytest.raises(InvalidInput, match="must be 1 to 63 of a-z"):
        publish(registry, policy=name)
    publish(registry)
    with pytest.raises(InvalidInput, match="must be 1 to 63 of a-z"):
        registry.set_alias("cartpole", name, 1)


def test_a_name_does_not_lead_out_of_the_repository(tmp_path: Path) -> None:
    inside, outside = (PolicyRegistry(str(tmp_path / name)) for name in ("policies", "other"))
    publish(inside)
    publish(outside)
    outside.set_alias("cartpole", "stable", 1)
    path = "../other/cartpole"
    assert inside.aliases(path) == {}
    with pytest.raises(NotFound, match=f"no policy {path!r}; there are: cartpole"):
        inside.load(path, 1)
    with pytest.raises(NotFound):
        inside.set_alias(path, "canary", 1)
    with pytest.raises(NotFound):
        inside.rollback(path, "stable")


def test_going_back_with_an_unknown_policy_makes_no_folder(on_disk: PolicyRegistry) -> None:
    publish(on_disk)
    with pytest.raises(NotFound, match="no policy 'ghost'; there are: cartpole"):
        on_disk.rollback("ghost", "stable")
    assert not Path(on_disk.url, "ghost").exists()


# --- damage -----------------------------------------------------------------


def test_changed_models_are_rejected(registry: PolicyRegistry) -> None:
    publish(registry, b"model")
    overwrite(registry, "cartpole/1/model.onnx", b"mod")
    with pytest.raises(ModelRejected, match="the file is damaged or was changed"):
        registry.load("cartpole", 1)


def test_a_missing_model_is_rejected(on_disk: PolicyRegistry) -> None:
    publish(on_disk)
    Path(on_disk.url, "cartpole/1/model.onnx").unlink()
    with pytest.raises(ModelRejected, match=r"cartpole/1/model.onnx is missing"):
        on_disk.load("cartpole", 1)


def test_changed_extra_files_are_refused(registry: PolicyRegistry) -> None:
    manifest = publish(registry, extra={"extra.bin": b"more"})
    overwrite(registry, "cartpole/1/extra.bin", b"less")
    with pytest.raises(DataCorrupted, match=r"cartpole/1/extra.bin is damaged or was changed"):
        registry.load_file(manifest, "extra.bin")


def test_files_that_were_not_published_are_not_there(registry: PolicyRegistry) -> None:
    manifest = publish(registry)
    overwrite(registry, "cartpole/1/planted.bin", b"x")
    with pytest.raises(NotFound, match=r"cartpole/1/planted.bin was not published"):
        registry.load_file(manifest, "planted.bin")


@pytest.mark.parametrize("content", [b"", b'{"policy": "cart', b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_manifest_is_said_to_be(registry: PolicyRegistry, content: bytes) -> None:
    publish(registry)
    overwrite(registry, "cartpole/1/policy.json", content)
    with pytest.raises(DataCorrupted, match=r"cartpole/1/policy.json is damaged"):
        registry.load("cartpole", 1)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"stable": 1}', b'{"stable": {"version": 0}}', b"\xff"]
)
def test_damaged_aliases_are_said_to_be(registry: PolicyRegistry, content: bytes) -> None:
    publish(registry)
    overwrite(registry, "cartpole/aliases.json", content)
    with pytest.raises(DataCorrupted, match=r"cartpole/aliases.json is damaged"):
        registry.aliases("cartpole")


def test_fields_of_a_later_release_are_left_aside(registry: PolicyRegistry) -> None:
    content = publish(registry).model_dump(mode="json") | {"colour": "red"}
    overwrite(registry, "cartpole/1/policy.json", json.dumps(content).encode())
    assert registry.manifest("cartpole", 1).run_id == "run"


# --- whole or not at all -----------------------------------------------------


def test_a_crash_between_files_leaves_nothing_to_see(
    registry: PolicyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry)
    _crash_at_the_manifest(registry, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        publish(registry, env_steps=1)
    monkeypatch.undo()
    assert registry.versions("cartpole") == [1]
    with pytest.raises(NotFound):
        registry.load("cartpole", 2)
    assert publish(registry, b"next", env_steps=1).version == 2
    assert registry.load("cartpole", 2).model == b"next"


def _crash_at_the_manifest(registry: PolicyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object) -> None:
        raise KeyboardInterrupt

    if registry.url.startswith("memory"):
        fs = type(fsspec.filesystem("memory"))
        pipe = fs.pipe_file
        monkeypatch.setattr(
            fs,
            "pipe_file",
            lambda self, path, value, **k: (
                die() if path.endswith("policy.json") else pipe(self, path, value, **k)
            ),
        )
    else:
        monkeypatch.setattr(Path, "rename", die)


def test_folders_that_are_half_there_are_not_versions(on_disk: PolicyRegistry) -> None:
    publish(on_disk)
    root = Path(on_disk.url, "cartpole")
    for name in ("7", ".publishing-x", "01", "x"):
        (root / name).mkdir()
        (root / name / "model.onnx").write_bytes(b"")
    (root / ".publishing-x" / "policy.json").write_bytes(b"{}")
    assert on_disk.versions("cartpole") == [1]


def test_a_full_disk_publishes_nothing(
    on_disk: PolicyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(on_disk)
    before = sorted(path.name for path in Path(on_disk.url, "cartpole").iterdir())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="no space left"):
        publish(on_disk, env_steps=1)
    with pytest.raises(StorageFull, match="no space left"):
        on_disk.set_alias("cartpole", "stable", 1)
    monkeypatch.undo()
    after = {path.name for path in Path(on_disk.url, "cartpole").iterdir()}
    assert after - {".lock"} == set(before)
    assert on_disk.aliases("cartpole") == {}


def test_publishers_at_the_same_time_get_versions_of_their_own(on_disk: PolicyRegistry) -> None:
    found: list[PolicyManifest] = []
    start = threading.Barrier(8)

    def run(i: int) -> None:
        registry = PolicyRegistry(on_disk.url)
        start.wait()
        found.append(publish(registry, f"model {i}".encode(), run_id=f"run-{i}"))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(manifest.version for manifest in found) == list(range(1, 9))
    for manifest in found:
        assert on_disk.load("cartpole", manifest.version).manifest == manifest


# --- aliases ------------------------------------------------------------------


def test_an_alias_remembers_where_it_pointed(registry: PolicyRegistry) -> None:
    for step in range(3):
        publish(registry, env_steps=step)
    for version in (1, 2, 2, 3):
        registry.set_alias("cartpole", "stable", version)
    assert registry.aliases("cartpole") == {"stable": AliasState(version=3, previous=(1, 2))}
    assert registry.rollback("cartpole", "stable") == AliasState(version=2, previous=(1,))
    assert registry.rollback("cartpole", "stable") == AliasState(version=1)
    with pytest.raises(PreconditionFailed, match="alias 'stable' has no version to go back to"):
        registry.rollback("cartpole", "stable")


def test_aliases_move_each_for_itself(registry: PolicyRegistry) -> None:
    for step in range(2):
        publish(registry, env_steps=step)
    registry.set_alias("cartpole", "stable", 1)
    registry.set_alias("cartpole", "canary", 2)
    states = registry.aliases("cartpole")
    assert {name: state.version for name, state in states.items()} == {"stable": 1, "canary": 2}


def test_an_alias_needs_a_published_version(registry: PolicyRegistry) -> None:
    publish(registry)
    with pytest.raises(NotFound, match="has no version 2"):
        registry.set_alias("cartpole", "stable", 2)


def test_an_alias_that_never_was_cannot_go_back(registry: PolicyRegistry) -> None:
    publish(registry)
    with pytest.raises(PreconditionFailed, match="no version to go back to"):
        registry.rollback("cartpole", "stable")


def test_no_move_of_many_at_once_is_lost(on_disk: PolicyRegistry) -> None:
    publish(on_disk)
    names = [f"alias-{i}" for i in range(16)]
    threads = [
        threading.Thread(target=PolicyRegistry(on_disk.url).set_alias, args=("cartpole", name, 1))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(on_disk.aliases("cartpole")) == sorted(names)


# --- Triton -------------------------------------------------------------------


def test_triton_finds_the_configuration_it_expects(registry: PolicyRegistry) -> None:
    publish(registry)
    text = FolderStore(registry.url, "policy.json").read("cartpole/config.pbtxt").decode()
    assert 'name: "cartpole"' in text
    assert 'platform: "onnxruntime_onnx"' in text
    assert '{ name: "observation", data_type: TYPE_FP32, dims: [ 4 ] }' in text
    assert '{ name: "q_values", data_type: TYPE_FP32, dims: [ 2 ] }' in text
    assert '{ name: "action", data_type: TYPE_INT64, dims: [ 1 ], reshape: { shape: [ ] } }' in text
    assert "version_policy: { all: { } }" in text


def test_others_than_the_publisher_can_read_all_of_it(on_disk: PolicyRegistry) -> None:
    publish(on_disk, extra={"extra.bin": b"more"})
    on_disk.set_alias("cartpole", "stable", 1)
    for path in Path(on_disk.url).rglob("[!.]*"):
        assert path.stat().st_mode & 0o004, path
