"""A policy's weights beside its model, so that another run can train on from them."""

from __future__ import annotations

import json

import safetensors.torch

from services.common.errors import DataCorrupted, PreconditionFailed
from services.common.registry import PolicyManifest, PolicyRegistry
from services.common.spec import Distribution
from services.trainer.config import NetworkConfig
from services.trainer.networks import QNetwork

WEIGHTS = "weights.safetensors"


def save_weights(network: QNetwork) -> bytes:
    """Tensors, and the network's configuration as metadata."""
    tensors = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    return safetensors.torch.save(tensors, {"network": network.config.model_dump_json()})


def load_weights(content: bytes, manifest: PolicyManifest) -> QNetwork:
    """The network that `save_weights` was given.

    Raises:
        DataCorrupted: when the bytes are not such.
    """
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        config = NetworkConfig.model_validate_json(header["__metadata__"]["network"])
        network = QNetwork(manifest.spec, config)
        network.load_state_dict(safetensors.torch.load(content))
    except (ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise DataCorrupted(f"{manifest.policy}/{manifest.version}/{WEIGHTS}: {error}") from error
    return network


def load_q_network(
    registry: PolicyRegistry, policy: str, alias: str
) -> tuple[QNetwork, PolicyManifest]:
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
    return load_weights(registry.load_file(manifest, WEIGHTS), manifest), manifest
