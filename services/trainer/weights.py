"""A policy's weights beside its model, so that another run can train on from them."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
from torch import nn

from services.common.errors import DataCorrupted, PreconditionFailed
from services.common.registry import PolicyManifest, PolicyRegistry
from services.common.spec import Distribution, PolicySpec
from services.trainer.config import QNetworkConfig
from services.trainer.networks import LeashedQNetwork, QNetwork

WEIGHTS = "weights.safetensors"


def save_weights(network: nn.Module) -> bytes:
    """Tensors, and how to build the network that holds them as metadata."""
    tensors = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    return safetensors.torch.save(tensors, {"network": json.dumps(describe(network))})


def load_weights(content: bytes, manifest: PolicyManifest) -> nn.Module:
    """The network that `save_weights` was given.

    Raises:
        DataCorrupted: when the bytes are not such.
    """
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        network = build(json.loads(header["__metadata__"]["network"]), manifest.spec)
        network.load_state_dict(safetensors.torch.load(content))
    except (ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise DataCorrupted(f"{manifest.policy}/{manifest.version}/{WEIGHTS}: {error}") from error
    return network


def describe(network: nn.Module) -> dict[str, Any]:
    """How to build a network of action values, as plain data."""
    match network:
        case QNetwork():
            return {"kind": "q", "config": network.config.model_dump(mode="json")}
        case LeashedQNetwork():
            return {
                "kind": "leashed",
                "base": describe(network.base),
                "correction": describe(network.correction),
                "temperature": network.temperature,
                "prior_temperature": network.prior_temperature,
                "floor": network.floor,
            }
    raise TypeError(f"{type(network).__name__} holds no action values")


def build(description: dict[str, Any], spec: PolicySpec) -> nn.Module:
    """The network that `describe` was given, with fresh weights.

    Raises:
        ValueError: when the description is of no network.
    """
    if description["kind"] == "q":
        return QNetwork(spec, QNetworkConfig.model_validate(description["config"]))
    if description["kind"] == "leashed":
        correction = build(description["correction"], spec)
        if not isinstance(correction, QNetwork):
            raise ValueError("a correction is a plain network of action values")
        return LeashedQNetwork(
            build(description["base"], spec),
            correction,
            description["temperature"],
            description["prior_temperature"],
            description["floor"],
        )
    raise ValueError(f"no network of kind {description['kind']!r}")


def load_q_network(
    registry: PolicyRegistry, policy: str, alias: str
) -> tuple[nn.Module, PolicyManifest]:
    """The network of the version an alias points at.

    Raises:
        PreconditionFailed: when nothing is published under the alias, or it has no Q-values.
    """
    state = registry.aliases(policy).get(alias)
    if state is None:
        raise PreconditionFailed(f"policy {policy!r} has no version {alias!r}; train one first")
    manifest = registry.manifest(policy, state.version)
    if manifest.spec.distribution != Distribution.Q_VALUES:
        raise PreconditionFailed(
            f"{policy} version {state.version} was made by {manifest.algorithm}; "
            "fine-tuning starts from a policy with Q-values, such as DQN's"
        )
    if manifest.spec.masked:
        raise PreconditionFailed(
            f"{policy} version {state.version} takes action masks, which fine-tuning knows nothing "
            "of; train one with environment.action_masks false"
        )
    return load_weights(registry.load_file(manifest, WEIGHTS), manifest), manifest
