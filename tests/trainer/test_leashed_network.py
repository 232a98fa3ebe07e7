"""Policies that are tuned on a leash: where they start, what learns, and that they export."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_networks import FULL, SPEC, leashed, observations, q_network, trained

from services.trainer.config import QNetworkConfig
from services.trainer.export import Exporter
from services.trainer.networks import LeashedQNetwork


@pytest.mark.parametrize("seed", range(5))
def test_it_begins_by_preferring_what_its_base_prefers(seed: int) -> None:
    base = q_network(seed, FULL)
    network, seen = leashed(base, seed + 10), observations(2000, seed)
    with torch.no_grad():
        assert torch.equal(network(seen).argmax(dim=1), base(seen).argmax(dim=1))
        twice = leashed(trained(network), seed + 20)
        assert torch.equal(twice(seen).argmax(dim=1), network(seen).argmax(dim=1))


def test_its_values_are_those_of_the_base_as_log_probabilities() -> None:
    class Known(torch.nn.Module):
        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 2.0], [0.0, 100.0]])

    network = LeashedQNetwork(
        Known(), q_network(), temperature=0.5, prior_temperature=2.0, floor=-4.0
    )
    seen = observations(2)
    # softmax(0, 1) = (0.2689, 0.7311); of (0, 50) the worse is lifted to the floor.
    expected = torch.tensor([[-1.3133, -0.3133], [-4.0, 0.0]])
    torch.testing.assert_close(network.log_prior(seen), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(network(seen), 0.5 * expected, atol=1e-4, rtol=0)


def test_the_base_has_no_gradient_and_the_correction_learns() -> None:
    base = q_network()
    network, seen = leashed(base), observations(64)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    optimizer = torch.optim.Adam(p for p in network.parameters() if p.requires_grad)
    for _ in range(5):
        optimizer.zero_grad()
        loss = (network(seen)[:, 0] - 1).square().mean()
        loss.backward()
        optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in base.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    gradients = [p.grad for p in network.correction.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("nested", [False, True])
def test_its_export_says_the_same_at_first_and_when_trained(nested: bool) -> None:
    base = q_network(0, QNetworkConfig(hidden=(8,), layer_norm=True))
    network = leashed(trained(leashed(base)) if nested else base, seed=5)
    seen = observations(50)
    exporter = Exporter(SPEC)
    for current in (network, trained(network, seed=6)):
        model = exporter.export(current, seen.numpy())
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        far = np.concatenate([seen.numpy(), 10 * seen.numpy()])
        values, actions = session.run(None, {"observation": far})
        with torch.no_grad():
            theirs = current(torch.from_numpy(far)).numpy()
        np.testing.assert_allclose(values, theirs, atol=1e-4, rtol=1e-4)
        np.testing.assert_array_equal(actions, values.argmax(axis=1))
