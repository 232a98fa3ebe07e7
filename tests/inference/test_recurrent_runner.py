"""Recurrent models: what they remember, what is refused, and that rows keep to themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recurrent_policies import (
    CUE,
    GRU,
    HIDDEN,
    LSTM,
    Gru,
    Lstm,
    cue_model,
    exported,
    gru_model,
    lstm_model,
    random_network,
    spec_of,
    unrolled,
)
from tiny_policies import CARTPOLE, linear_model

from services.common.errors import ModelRejected
from services.common.spec import PolicySpec, StatePart
from services.inference.runner import PolicyRunner

STEPS = 200


def stepped(runner: PolicyRunner, observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Values (steps, sessions, actions) of sessions that are run together."""
    states = np.zeros((observations.shape[1], runner.spec.state_size), dtype=np.float32)
    values = []
    for observation, start in zip(observations, starts, strict=True):
        states = np.where(start[:, None], np.float32(0), states)
        q_values, states = runner.step(observation, None, states)
        values.append(q_values)
    return np.stack(values)


@pytest.mark.parametrize(
    ("model", "spec", "kind"), [(gru_model, GRU, Gru), (lstm_model, LSTM, Lstm)]
)
def test_two_hundred_steps_with_resets_are_those_of_torch(
    model: object, spec: PolicySpec, kind: type[Gru] | type[Lstm]
) -> None:
    generator = np.random.default_rng(1)
    observations = generator.normal(size=(STEPS, 5, 2)).astype(np.float32)
    starts = generator.random((STEPS, 5)) < 0.05
    values = stepped(PolicyRunner(model(), spec, max_batch=4), observations, starts)

    network = random_network(kind, 0)
    for i in range(5):
        theirs = unrolled(network, spec, observations[:, i], starts[:, i].tolist())
        np.testing.assert_allclose(values[:, i], theirs, atol=1e-4)
    forgetful = unrolled(network, spec, observations[:, 0], [True] * STEPS)
    assert np.abs(values[:, 0] - forgetful).max() > 0.1


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 33])
def test_states_do_not_depend_on_their_company(rows: int) -> None:
    runner = PolicyRunner(gru_model(), GRU, max_batch=16)
    generator = np.random.default_rng(2)
    observations = generator.normal(size=(rows, 2)).astype(np.float32)
    states = generator.uniform(-1, 1, (rows, HIDDEN)).astype(np.float32)
    values, after = runner.step(observations, None, states)

    assert (values.shape, after.shape) == ((rows, 3), (rows, HIDDEN))
    for i in range(rows):
        alone = runner.step(observations[i : i + 1], None, states[i : i + 1])
        assert np.array_equal(alone[0][0], values[i])
        assert np.array_equal(alone[1][0], after[i])


def test_run_is_an_episodes_first_step() -> None:
    runner = PolicyRunner(gru_model(), GRU)
    observations = np.random.default_rng(3).normal(size=(4, 2)).astype(np.float32)
    first, _ = runner.step(observations, None, np.zeros((4, HIDDEN), dtype=np.float32))

    assert np.array_equal(runner.run(observations), first)


@pytest.mark.parametrize(
    ("model", "spec", "reason"),
    [
        (lambda: gru_model(), spec_of((8,), actions=3), r"'state_0' .* \['batch', 8\]"),
        (lambda: gru_model(), LSTM, r"'state_0' .* \['batch', 1, 24\]"),
        (lambda: linear_model(), CARTPOLE.model_copy(update={"state": CUE.state}), "no input"),
        (lambda: gru_model(), GRU.model_copy(update={"state": ()}), "input 'state_0' is none of"),
    ],
)
def test_what_does_not_fit_its_spec_is_refused(
    model: object, spec: PolicySpec, reason: str
) -> None:
    with pytest.raises(ModelRejected, match=reason):
        PolicyRunner(model(), spec)


def test_a_state_that_is_not_finite_is_refused() -> None:
    class Exploding(Gru):
        def forward(self, observation: torch.Tensor, state_0: torch.Tensor) -> tuple:
            values, action, state = super().forward(observation, state_0)
            return values, action, state / (state_0.abs().amax(dim=1, keepdim=True) * 0)

    torch.manual_seed(0)
    model = exported(Exploding(1, 2).eval(), CUE)
    with pytest.raises(ModelRejected, match="next_state_0 is not finite on a trial batch"):
        PolicyRunner(model, CUE)


def test_a_cue_is_remembered() -> None:
    runner = PolicyRunner(cue_model(), CUE)
    states = np.zeros((2, 1), dtype=np.float32)
    shown = np.array([[-1, 1], [1, 1]], dtype=np.float32)
    _, states = runner.step(shown, None, states)
    for _ in range(50):
        values, states = runner.step(np.zeros((2, 2), np.float32), None, states)
        assert values.argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize(
    "part",
    [
        {"input": "observation", "output": "next", "shape": (1,)},
        {"input": "action_mask", "output": "next", "shape": (1,)},
        {"input": "state", "output": "q_values", "shape": (1,)},
        {"input": "state", "output": "action", "shape": (1,)},
    ],
)
def test_names_of_the_state_are_its_own(part: dict[str, object]) -> None:
    content = CARTPOLE.model_dump() | {"state": [part]}
    with pytest.raises(ValueError, match="need names of their own"):
        PolicySpec.model_validate(content)


def test_a_policy_json_from_before_there_were_states_is_read() -> None:
    content = CARTPOLE.model_dump(mode="json")
    del content["state"]
    assert PolicySpec.model_validate(content) == CARTPOLE
    kept = PolicySpec.model_validate_json(LSTM.model_dump_json())
    assert kept == LSTM
    assert kept.state[0] == StatePart(input="state_0", output="next_state_0", shape=(1, HIDDEN))
