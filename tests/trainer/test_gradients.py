"""An optimiser on one flat tensor takes the steps that it takes on many."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from services.trainer.gradients import FlatDescent


def test_it_is_adam_with_clipped_gradients() -> None:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    other = copy.deepcopy(one)
    flat = FlatDescent(list(one.parameters()), 0.1, max_norm=0.5)
    adam = torch.optim.Adam(other.parameters(), lr=0.1)
    for step in range(5):
        x = torch.randn(8, 3) * 10**step  # gradients that are clipped, and some that are not
        norm = flat.descend((one(x) ** 2).mean())
        adam.zero_grad()
        (other(x) ** 2).mean().backward()
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(other.parameters(), 0.5))
        adam.step()
        for mine, its in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)


def test_what_is_loaded_is_what_is_improved() -> None:
    network = nn.Linear(2, 1)
    flat = FlatDescent(list(network.parameters()), 0.1, max_norm=1.0)
    network.load_state_dict({"weight": torch.tensor([[3.0, 3.0]]), "bias": torch.tensor([1.0])})
    flat.descend(network(torch.ones(1, 2)).sum())
    torch.testing.assert_close(network.weight, torch.tensor([[2.9, 2.9]]), atol=1e-3, rtol=0)


def test_each_gradient_may_be_clipped_and_the_optimiser_be_another() -> None:
    network = nn.Linear(2, 1, bias=False)
    before = network.weight.detach().clone()
    flat = FlatDescent(list(network.parameters()), 1.0, torch.optim.SGD, max_value=0.5)
    norm = flat.descend(network(torch.tensor([[3.0, 0.25]])).sum())
    assert norm.item() == pytest.approx(9.0625**0.5)
    torch.testing.assert_close(network.weight, before - torch.tensor([[0.5, 0.25]]))
