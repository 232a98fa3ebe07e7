"""Parts of networks of action values, with weights and noise set by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_networks import ALL, FULL, PLAIN, SPEC, observations, q_network
from torch import nn, tensor

from services.trainer.config import QNetworkConfig
from services.trainer.networks import DuelingHead, QNetwork, dueling_values
from services.trainer.noisy import NoisyLinear, resample


def test_dueling_adds_advantages_over_their_mean_to_the_value() -> None:
    # 10 + (1 - 2, 2 - 2, 3 - 2) and -1 + (0, 0, 0)
    value, advantage = tensor([[10.0], [-1.0]]), tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    assert dueling_values(value, advantage).tolist() == [[9, 10, 11], [-1, -1, -1]]


def test_dueling_is_of_each_quantile() -> None:
    # Quantile 0: 10 + (1 - 2, 3 - 2); quantile 1: 20 + (5 - 4, 3 - 4)
    value, advantage = tensor([[[10.0, 20.0]]]), tensor([[[1.0, 5.0], [3.0, 3.0]]])
    assert dueling_values(value, advantage).tolist() == [[[9, 21], [11, 19]]]


def test_a_dueling_network_has_streams_of_its_last_hidden_layer() -> None:
    network = QNetwork(SPEC, QNetworkConfig(hidden=(8, 6), dueling=True, layer_norm=True))
    head = network.head
    assert isinstance(head, DuelingHead)
    for stream, outputs in ((head.value, 1), (head.advantage, SPEC.actions)):
        hidden, out = (layer for layer in stream if isinstance(layer, nn.Linear))
        assert (hidden.in_features, hidden.out_features, out.out_features) == (8, 6, outputs)
    seen = observations(5)
    x = network.trunk(seen)
    expected = dueling_values(head.value(x), head.advantage(x))
    assert torch.equal(network(seen), expected)
    assert QNetwork(SPEC, QNetworkConfig(hidden=(8,), dueling=True))(seen).shape == (5, 2)


def test_values_are_the_means_of_quantiles() -> None:
    network = QNetwork(SPEC, QNetworkConfig(hidden=(8,), quantiles=3))
    seen = observations(5)
    quantiles = network.quantiles(seen)
    assert quantiles.shape == (5, SPEC.actions, 3)
    torch.testing.assert_close(network(seen), quantiles.mean(dim=2))


def noisy_layer() -> NoisyLinear:
    """Weights (1, 2), bias 3; their noise 0.5, 0.25 and 2; ε is 4 and -9 in, 1 out."""
    layer = NoisyLinear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(tensor([[1.0, 2.0]]))
        layer.bias.copy_(tensor([3.0]))
        layer.weight_noise.copy_(tensor([[0.5, 0.25]]))
        layer.bias_noise.copy_(tensor([2.0]))
    layer.set_noise(tensor([4.0, -9.0]), tensor([1.0]))
    return layer


def test_a_noisy_layer_adds_its_noise() -> None:
    # f(4) = 2, f(-9) = -3, f(1) = 1: weights 1 + 0.5·2 = 2 and 2 - 0.25·3 = 1.25, bias 3 + 2
    # 2·10 + 1.25·4 + 5 = 30
    assert noisy_layer()(tensor([[10.0, 4.0]])).item() == 30


def test_in_evaluation_there_is_no_noise() -> None:
    # 1·10 + 2·4 + 3 = 21
    assert noisy_layer().eval()(tensor([[10.0, 4.0]])).item() == 21


def test_before_it_is_drawn_there_is_no_noise() -> None:
    network, seen = q_network(0, ALL), observations(3)
    assert network.training
    assert torch.equal(network(seen), network.eval()(seen))


def test_noise_follows_from_the_generator_and_is_not_learnt_state() -> None:
    network, seen = q_network(0, ALL), observations(3)
    found = []
    for seed in (1, 2, 1):
        resample(network, np.random.default_rng(seed))
        found.append(network(seen))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert not any("noise_in" in name or "noise_out" in name for name in network.state_dict())


def test_noise_has_gradients_of_its_own() -> None:
    layer = noisy_layer()
    layer(tensor([[10.0, 4.0]])).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight_noise.grad is not None
    assert layer.weight.grad.tolist() == [[10, 4]]
    assert layer.weight_noise.grad.tolist() == [[20, -12]]


@pytest.mark.parametrize("config", [PLAIN, FULL])
def test_networks_without_noise_draw_none(config: QNetworkConfig) -> None:
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    resample(q_network(0, config), generator)
    assert generator.bit_generator.state == before
