"""Weights beside a published model, from which another run trains on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import safetensors.torch
import tiny_policies
import torch
from tiny_networks import ALL, FULL, LOGITS_SPEC, SPEC, leashed, observations, q_network, trained
from torch import nn

from services.common.errors import DataCorrupted, NotFound, PreconditionFailed
from services.common.registry import Evaluation, PolicyManifest, PolicyRegistry
from services.trainer.actor_critic import ActorCritic
from services.trainer.config import ActorCriticNetworkConfig, NetworkConfig
from services.trainer.weights import WEIGHTS, load_q_network, load_weights, save_weights


def manifest(version: int = 1, digest: str = "ab" * 32, spec=SPEC, by="dqn") -> PolicyManifest:
    return PolicyManifest(
        policy="cartpole",
        version=version,
        spec=spec,
        algorithm=by,
        run_id=f"run-{version}",
        env_steps=100,
        evaluation=Evaluation(episodes=2, mean_return=9, min_return=8, max_return=10),
        sha256=digest,
        published_at=datetime.now(UTC),
    )


def publish(registry: PolicyRegistry, network: nn.Module) -> int:
    model = tiny_policies.linear_model()
    files = {WEIGHTS: save_weights(network)}
    version = registry.publish("cartpole", model, manifest, files).version
    registry.set_alias("cartpole", "stable", version)
    return version


@pytest.fixture
def registry(tmp_path: Path) -> PolicyRegistry:
    return PolicyRegistry(str(tmp_path / "policies"))


def made(kind: str) -> nn.Module:
    match kind:
        case "plain":
            return q_network()
        case "full":
            return q_network(3, FULL)
        case "all":
            return q_network(4, ALL)
        case "leashed":
            return trained(leashed(q_network()))
        case "leashed all":
            return trained(leashed(q_network(5, ALL)))
        case _:
            return trained(leashed(trained(leashed(q_network(3, FULL))), seed=8), seed=9)


@pytest.mark.parametrize("kind", ["plain", "full", "all", "leashed", "leashed all", "nested"])
def test_a_network_comes_back_as_it_was(kind: str, registry: PolicyRegistry) -> None:
    network, seen = made(kind), observations(100)
    version = publish(registry, network)
    found, described = load_q_network(registry, "cartpole", "stable")
    assert described.version == version
    assert type(found) is type(network)
    with torch.no_grad():
        assert torch.equal(found(seen), network(seen))
    assert save_weights(found) == save_weights(network)


def test_a_base_that_comes_back_is_still_out_of_reach_of_gradients() -> None:
    found = load_weights(save_weights(made("nested")), manifest())
    found(observations(8)).square().mean().backward()
    assert all(p.grad is None for p in found.base.parameters())
    assert all(p.grad is not None for p in found.correction.parameters())


def test_weights_of_before_there_were_other_kinds_of_networks_are_read() -> None:
    old = {"kind": "q", "config": NetworkConfig(hidden=(8,)).model_dump(mode="json")}
    found = load_weights(with_metadata(old), manifest())
    with torch.no_grad():
        assert torch.equal(found(observations(8)), q_network()(observations(8)))


GOOD = save_weights(q_network())


def with_metadata(description: object) -> bytes:
    tensors = q_network().state_dict()
    return safetensors.torch.save(tensors, {"network": json.dumps(description)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"weights",
        GOOD[:40],
        GOOD[:-1],
        GOOD + b"\0",
        GOOD[:8] + b"\0" * (len(GOOD) - 8),
        (10**15).to_bytes(8, "little") + GOOD[8:],
        safetensors.torch.save(q_network().state_dict()),
        save_weights(q_network(0, FULL)).replace(b'[8, 4]', b'[8, 5]'),
        with_metadata({"kind": "q", "config": {"hidden": [0]}}),
        with_metadata({"kind": "q"}),
        with_metadata({"kind": "transformer"}),
        with_metadata({"kind": "leashed", "base": {"kind": "q", "config": {"hidden": [8]}}}),
        with_metadata([1, 2]),
        (2).to_bytes(8, "little") + b"[]",
    ],
)  # fmt: skip
def test_damaged_bytes_are_said_to_be(content: bytes) -> None:
    with pytest.raises(DataCorrupted, match=r"cartpole/1/weights\.safetensors: "):
        load_weights(content, manifest())


def test_a_correction_that_is_a_leash_itself_is_no_network() -> None:
    nested = trained(leashed(q_network()))
    inner = {"kind": "q", "config": NetworkConfig(hidden=(8,)).model_dump(mode="json")}
    leash = {"temperature": 1.0, "prior_temperature": 1.0, "floor": -1.0}
    twisted = {"kind": "leashed", "base": inner, **leash}
    description = {**twisted, "correction": {**twisted, "correction": inner}}
    content = safetensors.torch.save(nested.state_dict(), {"network": json.dumps(description)})
    with pytest.raises(DataCorrupted, match="a correction is a plain network"):
        load_weights(content, manifest())


def test_a_file_that_was_changed_is_not_read(registry: PolicyRegistry, tmp_path: Path) -> None:
    version = publish(registry, q_network())
    path = tmp_path / "policies" / "cartpole" / str(version) / WEIGHTS
    path.chmod(0o644)
    path.write_bytes(save_weights(q_network(1)))
    with pytest.raises(DataCorrupted, match="damaged or was changed"):
        load_q_network(registry, "cartpole", "stable")


def test_a_policy_without_action_values_is_refused(registry: PolicyRegistry) -> None:
    with pytest.raises(TypeError, match="ActorCritic holds no action values"):
        save_weights(ActorCritic(LOGITS_SPEC, ActorCriticNetworkConfig(hidden=(8,))))
    model = tiny_policies.linear_model()

    def by_ppo(version: int, digest: str) -> PolicyManifest:
        return manifest(version, digest, LOGITS_SPEC, "ppo")

    registry.publish("cartpole", model, by_ppo)
    registry.set_alias("cartpole", "stable", 1)
    with pytest.raises(PreconditionFailed, match=r"version 1 was made by ppo.*such as DQN's"):
        load_q_network(registry, "cartpole", "stable")


def test_a_version_published_without_weights_is_refused(registry: PolicyRegistry) -> None:
    tiny_policies.publish(registry, tiny_policies.linear_model())
    with pytest.raises(NotFound, match=r"weights\.safetensors was not published"):
        load_q_network(registry, "cartpole", "stable")


def test_an_unknown_alias_or_policy_says_to_train_first(registry: PolicyRegistry) -> None:
    publish(registry, q_network())
    with pytest.raises(PreconditionFailed, match="'cartpole' has no version 'gold'; train one"):
        load_q_network(registry, "cartpole", "gold")
    with pytest.raises(PreconditionFailed, match="'acrobot' has no version 'stable'"):
        load_q_network(registry, "acrobot", "stable")
