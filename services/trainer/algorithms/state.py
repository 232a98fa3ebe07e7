"""Learners' state as flat tensors by dotted name, as safetensors keeps it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def join(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{"group.name": tensor}"""
    return {f"{g}.{name}": tensor for g, group in groups.items() for name, tensor in group.items()}


def split(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors of one group, by their own names."""
    prefix = f"{group}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts, by "parameter index.name"."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, slots in state.items() for name, value in slots.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; hyperparameters stay those in force."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
