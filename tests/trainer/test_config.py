"""Presets, overrides, and the naming of what cannot be run."""

from __future__ import annotations

from typing import get_args

import pytest
import yaml

from services.common.errors import InvalidConfig
from services.trainer.config import (
    DQNRun,
    Run,
    load_preset,
    parse,
    preset_names,
    to_yaml,
    total_env_steps,
)

MINIMAL = {"algorithm": "dqn", "policy": "p", "environment": {"id": "CartPole-v1"}}


@pytest.mark.parametrize("name", preset_names())
def test_each_preset_can_be_run_and_says_all_of_itself(name: str) -> None:
    config = load_preset(name)
    assert parse(yaml.safe_load(to_yaml(config)), source="again") == config


def test_the_presets_cover_every_kind_of_run() -> None:
    kinds = {type(load_preset(name)) for name in preset_names()}
    assert kinds == set(get_args(Run))


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidConfig, match=r"no preset 'ghost'; there are: .*cartpole-dqn"):
        load_preset("ghost")
    with pytest.raises(InvalidConfig, match="no preset"):
        load_preset("../presets/cartpole-dqn")


def test_overrides_replace_values_by_dotted_key() -> None:
    overrides = {
        "dqn.learning_rate": "3e-4",
        "dqn.epsilon.end": "0.2",
        "network.hidden": "[8, 8]",
        "evaluation.goal_return": "null",
        "policy": "other",
    }
    config = load_preset("cartpole-dqn", overrides, seed=7)
    assert isinstance(config, DQNRun)
    assert config.dqn.learning_rate == 3e-4
    assert config.dqn.epsilon.end == 0.2
    assert config.network.hidden == (8, 8)
    assert config.evaluation.goal_return is None
    assert (config.policy, config.seed) == ("other", 7)
    assert config.dqn.batch_size == load_preset("cartpole-dqn").dqn.batch_size


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("dqn.colour", "red", "unknown key 'dqn.colour'"),
        ("colour", "red", "unknown key 'colour'"),
        ("network.depth.more", "1", "unknown key 'network.depth'"),
        ("policy.name", "x", "'policy' is a value, not a group of keys"),
        ("dqn.learning_rate", "fast", "dqn.learning_rate: .*valid number"),
        ("dqn.learning_rate", "0", "dqn.learning_rate: .*greater than 0"),
        ("dqn.batch_size", "1.5", "dqn.batch_size: .*integer"),
        ("dqn.batch_size", "", "dqn.batch_size: .*integer"),
        ("dqn", "1", "dqn: .*"),
        ("policy", "Bad Name", "policy: .*pattern"),
        ("seed", "-1", "seed: .*greater than or equal to 0"),
        ("network.hidden", "[]", "network.hidden is empty, expected .* at least one"),
        ("dqn.batch_size", "[1", "'\\[1' is not a YAML value"),
        ("policy", "2026-13-45", "'2026-13-45' is not a YAML value"),
        ("policy", "!!python/object:os.system x", "is not a YAML value"),
        ("algorithm", "magic", "algorithm: .*'dqn', 'pqn', 'ppo', "),
        ("dqn.loss", "l2", "dqn.loss: .*'huber' or 'l1'"),
        ("dqn.bootstrap", "max", "dqn.bootstrap: .*'q-learning', 'double', 'sarsa'"),
        ("dqn.max_gradient_value", "1", "max_gradient_norm or by max_gradient_value: set one"),
        ("dqn.max_gradient_norm", "null", "max_gradient_norm or by max_gradient_value: set one"),
        ("dqn.target_tau", "0.005", "it needs target_update_period 1, not 50"),
        ("dqn.priorities.exponent", "2", "dqn.priorities.exponent: .*less than or equal to 1"),
        (
            "replay.min_replay_size",
            "1000000",
            "preset cartpole-dqn: Value error, replay.min_replay_size .*never reached",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_key(key: str, text: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        load_preset("cartpole-dqn", {key: text})


@pytest.mark.parametrize(
    ("preset", "key", "nearest"),
    [
        ("cartpole-dqn", "dqn.n_stpe", "dqn.n_step"),
        ("cartpole-dqn", "learning_rate", "dqn.learning_rate"),
        ("cartpole-dqn", "ppo.learning_rate", "dqn.learning_rate"),
        ("cartpole-dqn", "dqn.epsilon.dekay", "dqn.epsilon.decay"),
        ("cartpole-dqn", "dqn.priorities.alpha_exponent", "dqn.priorities.exponent"),
        ("cartpole-dqn", "sede", "seed"),
        ("cartpole-ppo", "dqn.discount", "ppo.discount"),
        ("cartpole-segments", "recording.segment", "recording.segments"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_there_is(
    preset: str, key: str, nearest: str
) -> None:
    with pytest.raises(InvalidConfig, match=f"unknown key .* nearest is '{nearest}'$"):
        load_preset(preset, {key: "1"})


@pytest.mark.parametrize("name", preset_names())
def test_each_preset_says_where_it_ends(name: str) -> None:
    steps = total_env_steps(load_preset(name))
    assert (steps == 0) == name.endswith("-segments")


@pytest.mark.parametrize("bootstrap", ["sarsa", "expected-sarsa"])
@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("network.quantiles", "8", "network.quantiles needs dqn.bootstrap q-learning or double"),
        ("network.noisy", "true", "network.noisy needs dqn.bootstrap q-learning or double"),
    ],
)
def test_networks_that_sarsa_cannot_learn_are_refused(
    bootstrap: str, key: str, text: str, message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        load_preset("cartpole-dqn", {"dqn.bootstrap": bootstrap, key: text})


@pytest.mark.parametrize("preset", ["cartpole-ppo", "cartpole-rlhf"])
def test_what_is_of_action_values_alone_is_refused_elsewhere(preset: str) -> None:
    with pytest.raises(InvalidConfig, match=r"unknown key 'network\.dueling'"):
        load_preset(preset, {"network.dueling": "true"})


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("network.layer_norm", "false", "network.layer_norm must be true"),
        ("network.noisy", "true", "no noisy, no quantiles"),
        ("network.quantiles", "4", "no noisy, no quantiles"),
        ("pqn.bootstrap", "sarsa", "unknown key 'pqn.bootstrap'"),
    ],
)
def test_what_pqn_cannot_learn_is_refused(key: str, text: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        load_preset("cartpole-pqn", {key: text})


def test_every_wrong_key_is_named() -> None:
    with pytest.raises(InvalidConfig) as refused:
        load_preset("cartpole-dqn", {"colour": "red", "dqn.speed": "9", "dqn.n_step": "0"})
    for part in ("unknown key 'colour'", "unknown key 'dqn.speed'", "dqn.n_step"):
        assert part in str(refused.value)


def test_overrides_leave_the_preset_as_it_is() -> None:
    load_preset("cartpole-dqn", {"dqn.batch_size": "3"})
    assert load_preset("cartpole-dqn").dqn.batch_size != 3


@pytest.mark.parametrize("content", [None, [], "dqn", {}, {**MINIMAL, "environment": None}])
def test_what_is_no_configuration_is_refused(content: object) -> None:
    with pytest.raises(InvalidConfig, match="here: "):
        parse(content, source="here")


def test_the_least_that_can_be_said_is_enough() -> None:
    assert isinstance(parse(MINIMAL, source="here"), DQNRun)
