"""Recurrent policies in torch, exported as a user would, and what they do in torch itself."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from services.common.action_space import Discrete
from services.common.spec import Distribution, ObservationSpace, PolicySpec, StatePart
from services.trainer.export import _quiet

HIDDEN, ACTIONS = 24, 3
SEEN = ObservationSpace(dtype="float32", shape=(2,))
LEFT_CUE, RIGHT_CUE, NOTHING = [-1.0, 1.0], [1.0, 1.0], [0.0, 0.0]


def spec_of(*shapes: Sequence[int], actions: int) -> PolicySpec:
    """Of a policy that observes two numbers, and hands parts of these shapes on."""
    state = [
        StatePart(input=f"state_{i}", output=f"next_state_{i}", shape=tuple(shape))
        for i, shape in enumerate(shapes)
    ]
    return PolicySpec(
        environment="Cue-v0",
        observation=SEEN,
        action=Discrete(n=actions),
        distribution=Distribution.Q_VALUES,
        state=tuple(state),
    )


CUE = spec_of((1,), actions=2)
GRU = spec_of((HIDDEN,), actions=ACTIONS)
LSTM = spec_of((1, HIDDEN), (HIDDEN,), actions=ACTIONS)


class Gru(nn.Module):
    """One step of a GRU, and action values of what it remembers."""

    def __init__(self, hidden: int, actions: int) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(2, hidden), nn.Linear(hidden, actions)

    def forward(self, observation: Tensor, state_0: Tensor) -> tuple[Tensor, ...]:
        hidden = self.cell(observation, state_0)
        q_values = self.head(hidden)
        return q_values, q_values.argmax(dim=1), hidden


class Lstm(nn.Module):
    """The same with an LSTM, whose state has two parts."""

    def __init__(self, hidden: int, actions: int) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(2, hidden), nn.Linear(hidden, actions)

    def forward(self, observation: Tensor, state_0: Tensor, state_1: Tensor) -> tuple[Tensor, ...]:
        hidden, cell = self.cell(observation, (state_0.squeeze(1), state_1))
        q_values = self.head(hidden)
        return q_values, q_values.argmax(dim=1), hidden.unsqueeze(1), cell


class Counter(nn.Module):
    """The first action's value is how many steps it has seen, this one included."""

    def forward(self, observation: Tensor, state_0: Tensor) -> tuple[Tensor, ...]:
        steps = state_0 + 1 + 0 * observation[:, :1]
        q_values = torch.cat([steps, -steps], dim=1)
        return q_values, q_values.argmax(dim=1), steps


def random_network(kind: type[Gru] | type[Lstm], seed: int) -> Gru | Lstm:
    """A network with weights that follow from a seed, large enough that memory matters."""
    torch.manual_seed(seed)
    network = kind(HIDDEN, ACTIONS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    return network.eval()


def cue_network(sign: float = 1.0) -> Gru:
    """Remembers the first number of the last observation whose second is 1, and goes its way.

    Args:
        sign: -1 has it go the other way.
    """
    network = Gru(1, 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        # In torch's order: reset, update, new. The update gate keeps what was, but for a cue.
        network.cell.bias_ih[1] = 15.0
        network.cell.weight_ih[1, 1] = -30.0
        network.cell.weight_ih[2, 0] = 3.0
        network.head.weight[:, 0] = torch.tensor([-sign, sign])
    return network.eval()


def exported(network: nn.Module, spec: PolicySpec) -> bytes:
    """The network as an ONNX model of the platform's signature."""
    names = ["observation", *(part.input for part in spec.state)]
    shapes = [SEEN.shape, *(part.shape for part in spec.state)]
    batch = torch.export.Dim("batch", min=1)
    with tempfile.TemporaryDirectory() as folder, _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network,
            tuple(torch.zeros(2, *shape) for shape in shapes),
            str(path),
            input_names=names,
            output_names=["q_values", "action", *(part.output for part in spec.state)],
            dynamic_shapes={name: {0: batch} for name in names},
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        return path.read_bytes()


@functools.cache
def gru_model(seed: int = 0) -> bytes:
    """A GRU with random weights."""
    return exported(random_network(Gru, seed), GRU)


@functools.cache
def lstm_model(seed: int = 0) -> bytes:
    """An LSTM with random weights."""
    return exported(random_network(Lstm, seed), LSTM)


@functools.cache
def cue_model(sign: float = 1.0) -> bytes:
    """The network that remembers cues."""
    return exported(cue_network(sign), CUE)


@functools.cache
def counting_model() -> bytes:
    """The network that counts its steps."""
    return exported(Counter(), CUE)


def unrolled(
    network: nn.Module, spec: PolicySpec, observations: np.ndarray, starts: Sequence[bool]
) -> np.ndarray:
    """Action values (steps, actions) of one session in torch, which forgets where it says."""
    values, state = list[np.ndarray](), [torch.zeros(1, *part.shape) for part in spec.state]
    with torch.no_grad():
        for observation, start in zip(observations, starts, strict=True):
            if start:
                state = [torch.zeros_like(part) for part in state]
            q_values, _, *state = network(torch.as_tensor(observation)[None], *state)
            values.append(q_values[0].numpy())
    return np.stack(values)
