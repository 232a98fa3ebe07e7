"""Adam on one flat tensor takes the steps that Adam takes on many."""

from __future__ import annotations

import copy

import torch
from torch import nn

from services.trainer.gradients import FlatAdam


def test_it_is_adam_with_clipped_gradients() -> None:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    other = copy.deepcopy(one)
    flat = FlatAdam(list(one.parameters()), learning_rate=0.1, max_norm=0.5)
    adam = torch.optim.Adam(other.parameters(), lr=0.1, eps=1e-5)
    for step in range(5):
        x = torch.randn(8, 3) * 10**step  # gradients that are clipped, and some that are not
        flat.descend((one(x) ** 2).mean())
        adam.zero_grad()
        (other(x) ** 2).mean().backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        adam.step()
        for mine, its in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)


def test_what_is_loaded_is_what_is_improved() -> None:
    network = nn.Linear(2, 1)
    flat = FlatAdam(list(network.parameters()), learning_rate=0.1, max_norm=1.0)
    network.load_state_dict({"weight": torch.tensor([[3.0, 3.0]]), "bias": torch.tensor([1.0])})
    flat.descend(network(torch.ones(1, 2)).sum())
    torch.testing.assert_close(network.weight, torch.tensor([[2.9, 2.9]]), atol=1e-3, rtol=0)
