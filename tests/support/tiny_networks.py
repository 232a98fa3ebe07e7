"""Small networks with weights that follow from a seed."""

from __future__ import annotations

import torch
from tiny_policies import CARTPOLE

from services.common.spec import Distribution, PolicySpec
from services.trainer.config import QNetworkConfig
from services.trainer.networks import LeashedQNetwork, QNetwork

SPEC = CARTPOLE
LOGITS_SPEC: PolicySpec = SPEC.model_copy(update={"distribution": Distribution.LOGITS})
PLAIN = QNetworkConfig(hidden=(8,))
FULL = QNetworkConfig(hidden=(8, 4), layer_norm=True, observation_scale=(2.0, 2.0, 0.2, 2.0))
ALL = FULL.model_copy(update={"dueling": True, "quantiles": 5, "noisy": True})


def q_network(seed: int = 0, config: QNetworkConfig = PLAIN) -> QNetwork:
    """A network of action values."""
    torch.manual_seed(seed)
    return QNetwork(SPEC, config)


def leashed(base: QNetwork | LeashedQNetwork, seed: int = 1) -> LeashedQNetwork:
    """A policy on a leash, whose correction is still nothing."""
    return LeashedQNetwork(
        base, q_network(seed, FULL), temperature=0.02, prior_temperature=0.3, floor=-4.0
    )


def trained(network: LeashedQNetwork, seed: int = 2) -> LeashedQNetwork:
    """The same with a correction that has been changed, as training does."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.correction.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return network


def observations(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 4)"""
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
