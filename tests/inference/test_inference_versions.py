"""Versions come and go while calls flow; nothing that is wrong with one takes the service down."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_models import growing
from inference_process import InferenceProcess
from tiny_policies import CARTPOLE, dense_model, linear_model, publish, random_layers

from services.common.durable import write_atomically
from services.common.ports import free_port
from services.common.registry import PolicyRegistry
from services.common.spec import ObservationSpace
from services.inference.operators import MIB
from tutelage import AsyncClient
from tutelage.errors import (
    DataCorrupted,
    ModelRejected,
    NotFound,
    PreconditionFailed,
)

OBSERVATION = [0.0, 0.0, 0.1, 0.0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InferenceProcess, Path]]:
    """A service with a policy for each kind of damage, and its repository."""
    folder = tmp_path_factory.mktemp("shared")
    process = InferenceProcess(folder / "policies", folder / "log")
    yield process, folder / "policies"
    process.stop()


def corrupt(repository: Path, version: int, content: bytes) -> None:
    (repository / "cartpole" / str(version) / "model.onnx").write_bytes(content)


async def test_swaps_under_load_fail_no_call(start_service, registry: PolicyRegistry) -> None:
    publish(registry, linear_model())
    service: InferenceProcess = start_service()
    stopped = asyncio.Event()

    async def keep_calling(client: AsyncClient) -> list[int]:
        versions = []
        while not stopped.is_set():
            versions.append((await client.act(OBSERVATION, timeout_s=20)).version)
        return versions

    async with AsyncClient(service.address) as client:
        callers = [asyncio.create_task(keep_calling(client)) for _ in range(8)]
        for bias in range(1, 11):
            model = dense_model(random_layers([4, 256, 256, 2], seed=bias))
            version = await asyncio.to_thread(publish, registry, model)
            await asyncio.to_thread(service.wait_until_serving, "cartpole", version)
        stopped.set()
        seen = await asyncio.gather(*callers)

    for versions in seen:
        assert versions == sorted(versions)
    assert len({version for versions in seen for version in versions}) == 11


def test_serving_is_logged_at_every_swap(start_service, registry: PolicyRegistry) -> None:
    publish(registry, linear_model())
    service = start_service()
    publish(registry, linear_model((1.0, 0.0)))
    service.wait_until_serving("cartpole", 2)

    assert [(r["policy"], r["version"], r["alias"]) for r in service.records("serving")] == [
        ("cartpole", 1, "stable"),
        ("cartpole", 2, "stable"),
    ]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("truncated", "has digest"),
        ("missing", "is missing"),
        ("rubbish-with-its-digest", "not an ONNX file"),
        ("asks-for-all-memory", "lloc"),
        ("other-shape-than-its-spec", "the spec expects"),
        ("other-interface-than-served", "publish it as a policy of another name"),
        ("manifest-of-another-version", "but stands in manifest-of-another-version/2"),
        ("damaged-manifest", "is damaged"),
    ],
)
def test_a_bad_version_leaves_the_old_one_serving(
    shared: tuple[InferenceProcess, Path], damage: str, reason: str
) -> None:
    service, repository = shared
    registry = PolicyRegistry(str(repository))
    publish(registry, linear_model(), policy=damage)
    service.wait_until_serving(damage, 1)
    publish_damaged(registry, repository / damage, damage)

    def load_error() -> str:
        versions = service.client.policy(damage).versions
        return "".join(version.load_error for version in versions if version.version == 2)

    assert reason in service.wait_for(load_error)
    # A damaged manifest is seen before the alias has been moved to it.
    service.wait_for(lambda: dict(service.client.policy(damage).aliases) == {"stable": 2})
    policy = service.client.policy(damage)
    assert dict(policy.serving) == {"stable": 1}
    assert service.client.act(OBSERVATION, policy=damage).version == 1

    publish(registry, linear_model((0.0, 1.0)), policy=damage)
    service.wait_until_serving(damage, 3)
    refused = [r for r in service.records("version refused") if r["policy"] == damage]
    assert [(r["version"], r["level"]) for r in refused] == [(2, "error")]
    assert reason in refused[0]["reason"]


def publish_damaged(registry: PolicyRegistry, folder: Path, damage: str) -> None:
    """Version 2 of the policy in `folder`, damaged before the alias is pointed at it."""
    model, spec = linear_model((1.0, 0.0)), CARTPOLE
    if damage.startswith("other"):
        six = ObservationSpace(dtype="float32", shape=(6,))
        spec = CARTPOLE.model_copy(update={"observation": six})
    if damage == "rubbish-with-its-digest":
        model = b"rubbish"
    elif damage == "asks-for-all-memory":
        model = growing(100 * MIB)
    elif damage == "other-interface-than-served":
        model = dense_model(random_layers([6, 2]))
    publish(registry, model, policy=damage, spec=spec, alias=None)
    manifest = folder / "2" / "policy.json"
    if damage == "truncated":
        (folder / "2" / "model.onnx").write_bytes(model[: len(model) // 2])
    elif damage == "missing":
        (folder / "2" / "model.onnx").unlink()
    elif damage == "manifest-of-another-version":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 7}))
    elif damage == "damaged-manifest":
        manifest.write_text("{")
    # As another publisher may: the registry itself refuses to point at a damaged manifest.
    aliases = {"stable": {"version": 2, "previous": [1]}}
    write_atomically(folder / "aliases.json", json.dumps(aliases).encode())


def test_after_a_restart_a_bad_version_falls_back_to_the_one_before(
    start_service, registry: PolicyRegistry, repository: Path
) -> None:
    publish(registry, linear_model())
    publish(registry, linear_model((1.0, 0.0)))
    corrupt(repository, 2, b"rubbish")

    service = start_service()

    assert dict(service.client.policy().serving) == {"stable": 1}


def test_a_repaired_version_is_taken_up(
    start_service, registry: PolicyRegistry, repository: Path
) -> None:
    publish(registry, linear_model())
    service = start_service()
    model = linear_model((1.0, 0.0))
    publish(registry, model, alias=None)
    corrupt(repository, 2, b"rubbish")
    registry.set_alias("cartpole", "stable", 2)
    service.wait_for(lambda: service.records("version refused"))

    corrupt(repository, 2, model)

    service.wait_until_serving("cartpole", 2)
    assert service.client.policy().versions[1].load_error == ""


def test_promotion_and_rollback(start_service, registry: PolicyRegistry, repository: Path) -> None:
    publish(registry, linear_model())
    service = start_service(inference_poll_s=3600)
    publish(registry, linear_model((1.0, 0.0)), alias=None)

    with pytest.raises(PreconditionFailed, match="no version to go back to"):
        service.client.rollback("cartpole")
    promoted = service.client.promote("cartpole", 2)
    assert (promoted.version, promoted.previous_version) == (2, 1)
    assert service.client.act(OBSERVATION).version == 2  # at once, without a look of the watcher
    assert registry.aliases("cartpole")["stable"].version == 2

    back = service.client.rollback("cartpole")
    assert (back.version, back.previous_version) == (1, 2)
    assert service.client.act(OBSERVATION).version == 1

    fresh = service.client.set_alias("cartpole", "canary", 2)
    assert (fresh.version, fresh.previous_version) == (2, 0)
    assert service.client.act(OBSERVATION, alias="canary").version == 2


def test_a_version_that_cannot_be_served_is_not_promoted(
    start_service, registry: PolicyRegistry, repository: Path
) -> None:
    publish(registry, linear_model())
    service = start_service()
    publish(registry, linear_model((1.0, 0.0)), alias=None)
    corrupt(repository, 2, b"rubbish")

    with pytest.raises(PreconditionFailed, match=r"version 2 cannot be served: .* has digest"):
        service.client.promote("cartpole", 2)
    with pytest.raises(ModelRejected, match="has digest"):
        service.client.act(OBSERVATION, version=2)
    with pytest.raises(NotFound, match="no version 3"):
        service.client.promote("cartpole", 3)

    assert registry.aliases("cartpole")["stable"].version == 1
    assert service.client.act(OBSERVATION).version == 1


def test_a_policy_just_published_can_be_promoted_before_it_was_seen(
    start_service, registry: PolicyRegistry
) -> None:
    service = start_service(inference_poll_s=3600)
    with pytest.raises(NotFound, match="nothing has been published yet"):
        service.client.act(OBSERVATION)
    publish(registry, linear_model(), alias=None)

    service.client.promote("cartpole", 1)

    assert service.client.act(OBSERVATION).version == 1


def test_pinned_versions_are_loaded_when_asked_for_and_the_oldest_forgotten(
    start_service, registry: PolicyRegistry
) -> None:
    for bias in range(4):
        publish(registry, linear_model((0.0, float(bias))))
    service = start_service(inference_max_loaded=2)

    def loaded() -> list[int]:
        return [v.version for v in service.client.policy().versions if v.loaded]

    assert loaded() == [4]
    for version in (1, 2, 3):
        assert service.client.act(OBSERVATION, version=version).version == version
    assert loaded() == [2, 3, 4]


def test_versions_beyond_a_bound_of_memory_are_forgotten(
    start_service, registry: PolicyRegistry
) -> None:
    for seed in range(3):  # of some 17 MB each
        publish(registry, dense_model(random_layers([4, 2000, 2000, 2], seed)))
    publish(registry, linear_model(), policy="other")
    port = free_port()
    service = start_service(inference_max_loaded_mib=50, inference_metrics_port=port)

    def loaded() -> list[int]:
        return [v.version for v in service.client.policy("cartpole").versions if v.loaded]

    for version in (1, 2, 3):
        assert (
            service.client.act(OBSERVATION, policy="cartpole", version=version).version == version
        )
    assert loaded() == [2, 3]  # 1 is what was unused for longest, 3 is stable
    assert service.client.act(OBSERVATION, policy="cartpole", version=1).version == 1
    assert loaded() == [1, 3]
    assert service.client.act(OBSERVATION, policy="other").version == 1
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    name = 'tutelage_inference_loaded_bytes{policy="cartpole"}'
    (taken,) = (float(line.split()[1]) for line in lines if line.startswith(name))
    assert 32e6 < taken < 50 * MIB
    assert 'tutelage_inference_unloaded_total{policy="cartpole"} 2.0' in lines


def test_a_policy_without_aliases_says_so(start_service, registry: PolicyRegistry) -> None:
    publish(registry, linear_model(), alias=None)
    service = start_service()

    with pytest.raises(NotFound, match="no alias 'stable'; there are: none yet"):
        service.client.act(OBSERVATION)
    assert service.client.act(OBSERVATION, version=1).version == 1


def test_damaged_aliases_leave_all_as_it_is(
    start_service, registry: PolicyRegistry, repository: Path
) -> None:
    publish(registry, linear_model())
    service = start_service()
    aliases = repository / "cartpole" / "aliases.json"
    whole = aliases.read_text()
    aliases.write_text('{"stable": ')

    service.wait_for(lambda: service.records("policy repository trouble"))
    assert service.client.act(OBSERVATION).version == 1
    with pytest.raises(DataCorrupted, match="is damaged"):
        service.client.promote("cartpole", 1)

    aliases.write_text(whole)
    service.wait_for(lambda: service.records("policy repository readable again"))
    (trouble,) = service.records("policy repository trouble")
    assert "aliases.json is damaged" in trouble["reason"]


def test_aliases_that_are_gone_are_still_followed(
    start_service, registry: PolicyRegistry, repository: Path
) -> None:
    publish(registry, linear_model())
    service = start_service()
    aliases = repository / "cartpole" / "aliases.json"
    content = aliases.read_bytes()
    aliases.unlink()
    service.wait_for(lambda: service.records("policy repository trouble"))
    assert service.client.act(OBSERVATION).version == 1

    aliases.write_bytes(content)
    publish(registry, linear_model((1.0, 0.0)))

    service.wait_until_serving("cartpole", 2)


def test_a_repository_that_goes_and_comes_back(
    start_service, registry: PolicyRegistry, repository: Path
) -> None:
    publish(registry, linear_model())
    service = start_service()
    aside = repository.with_name("aside")
    shutil.move(repository, aside)
    service.wait_for(lambda: service.records("policy repository trouble"))
    assert service.client.act(OBSERVATION).version == 1

    shutil.move(aside, repository)
    publish(registry, linear_model((1.0, 0.0)))

    service.wait_until_serving("cartpole", 2)
