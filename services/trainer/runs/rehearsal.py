"""Does once, on nothing, what makes Python import what a run needs."""

from __future__ import annotations

import numpy as np
import torch

from services.trainer.config import EnvironmentConfig, QNetworkConfig
from services.trainer.export import Exporter
from services.trainer.networks import QNetwork
from services.trainer.runs import execute


def rehearse() -> None:
    """Import what trains, optimises and exports: much of torch's is imported at its first use."""
    torch.set_num_threads(1)
    spec = execute.values_spec(EnvironmentConfig(id="CartPole-v1"))
    network = QNetwork(spec, QNetworkConfig(hidden=(4,)))
    torch.optim.Adam(network.parameters())
    Exporter(spec).export(network, np.zeros((2, 4), np.float32))
