"""A published policy that takes action 0 wherever it is, and that a run can train on."""

from __future__ import annotations

from datetime import UTC, datetime

import torch

from services.common.registry import Evaluation, PolicyManifest, PolicyRegistry
from services.common.spec import PolicySpec
from services.trainer.config import QNetworkConfig
from services.trainer.export import Exporter
from services.trainer.networks import QNetwork
from services.trainer.weights import WEIGHTS, save_weights


def publish_poor(
    registry: PolicyRegistry,
    policy: str,
    spec: PolicySpec,
    config: QNetworkConfig,
    mean_return: float = 0.0,
) -> None:
    """Publish it as `stable`, of a probe environment's spec, with this evaluation."""
    network = QNetwork(spec, config)
    with torch.no_grad():
        *_, bias = network.head.parameters()
        bias[0] += 5
    seen = torch.linspace(0, 2, 8).reshape(-1, 1).numpy()
    evaluation = Evaluation(
        episodes=4, mean_return=mean_return, min_return=mean_return, max_return=mean_return
    )

    def describe(version: int, digest: str) -> PolicyManifest:
        return PolicyManifest(
            policy=policy,
            version=version,
            spec=spec,
            algorithm="dqn",
            run_id="poor",
            env_steps=0,
            evaluation=evaluation,
            sha256=digest,
            published_at=datetime.now(UTC),
        )

    model = Exporter(spec).export(network, seen)
    manifest = registry.publish(policy, model, describe, {WEIGHTS: save_weights(network)})
    registry.set_alias(policy, "stable", manifest.version)
