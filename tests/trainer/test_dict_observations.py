"""Observations of several parts: learnt from, kept, exported, served and asked for. γ is 0.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import picture_probes  # noqa: F401 - registers them
import pytest
from inference_process import InferenceProcess
from learning_rig import dqn_config, learn_dqn, learn_on_policy, learn_pqn, ppo_config, pqn_config
from picture_probes import picture

from services.common.errors import InvalidConfig
from services.common.replay import ReplayStore
from services.common.replay.policy_schema import replay_schema
from services.common.spec import DictSpace, Distribution
from services.trainer import environments
from services.trainer.config import EnvironmentConfig, parse
from services.trainer.observations import packed, rows
from services.trainer.published import PublishedPolicy
from services.trainer.resources import Resources
from services.trainer.runs.execute import execute
from services.trainer.runs.store import RunStore
from services.trainer.segments import open_environment
from tutelage import errors
from tutelage.v1 import training_pb2

CONVOLUTIONS = [{"channels": 4, "kernel": 3, "stride": 2}]
SEEN: dict[str, Any] = {"convolutions": CONVOLUTIONS, "channels_last": True}
SPEC = environments.spec_of(EnvironmentConfig(id="ProbeParts-v0"), Distribution.Q_VALUES)
# Side, whether it is turned, state: each of them alone says nothing.
CASES = [(side, turned, state) for side in (0, 1) for turned in (0, 1) for state in (0, 2)]
WORTH = [
    [state < 2 and action == side ^ turned for action in (0, 1)] for side, turned, state in CASES
]


def parts(cases: list[tuple[int, int, int]]) -> dict[str, np.ndarray]:
    """What the probe shows in these cases, (n, …) each."""
    return {
        "picture": np.stack([picture(8 if side else 1)[:, :, None] for side, _, _ in cases]),
        "vector": np.array([(0.5, 1 - 2 * turned) for _, turned, _ in cases], np.float32),
        "state": np.array([state for _, _, state in cases]),
    }


def together(cases: list[tuple[int, int, int]] = CASES) -> np.ndarray:
    assert isinstance(SPEC.observation, DictSpace)
    return packed(parts(cases), SPEC.observation)


def test_environments_show_parts_as_one_array() -> None:
    envs = environments.make(EnvironmentConfig(id="ProbeParts-v0"), num_envs=3)
    seen, _ = envs.reset(seed=0)
    assert seen.shape == (3,)
    assert seen.dtype == SPEC.observation.row
    following, *_ = envs.step(np.zeros(3, int))
    assert following.dtype == seen.dtype
    assert rows(seen).shape == (3, 8 * 12 + 1 + 2)
    given = parts(CASES)
    ordered = {key: given[key] for key in SPEC.observation.parts}  # type: ignore[union-attr]
    np.testing.assert_array_equal(rows(together()), rows(ordered))


def test_dqn_learns_from_all_parts(resources: Resources, tmp_path: Path) -> None:
    config = dqn_config("ProbeParts-v0", {"image": SEEN}, total_env_steps=2400, learning_rate=0.005)
    learner = learn_dqn(config, resources, tmp_path)
    np.testing.assert_allclose(learner.q_values(together()), WORTH, atol=0.25)
    schema = ReplayStore.open_existing(resources.redis, f"probe-{tmp_path.name}").schema
    kept = {field.name: (field.dtype, field.shape) for field in schema.leaves}
    assert kept["observation.picture"] == ("uint8", (8, 12, 1))
    assert kept["observation.state"] == ("int64", ())


def test_stretches_are_made_of_parts_too(resources: Resources, tmp_path: Path) -> None:
    config = dqn_config("ProbeParts-v0", {"image": SEEN}, total_env_steps=160, bootstrap="sarsa")
    assert learn_dqn(config, resources, tmp_path).updates > 0


def test_learners_on_rollouts_learn_from_all_parts(tmp_path: Path) -> None:
    for name in ("ppo", "pqn"):
        (tmp_path / name).mkdir()
    content = ppo_config("ProbeParts-v0", total_env_steps=4000).model_dump(mode="json")
    content["network"]["image"] = SEEN
    ppo = learn_on_policy(parse(content, "test"), tmp_path / "ppo")  # type: ignore[arg-type]
    payable = [case for case in CASES if case[2] < 2]
    wanted = [side ^ turned for side, turned, _ in payable]
    np.testing.assert_array_equal(ppo.greedy(together(payable)), wanted)
    content = pqn_config("ProbeParts-v0", total_env_steps=256).model_dump(mode="json")
    content["network"]["image"] = {**SEEN, "norm": "layer"}
    pqn = learn_pqn(parse(content, "test"), tmp_path / "pqn")  # type: ignore[arg-type]
    assert pqn.greedy(together()).shape == (len(CASES),)


def run_of(algorithm: str, **content: Any) -> Any:
    return parse(
        {
            "algorithm": algorithm,
            "policy": "probe",
            "environment": {"id": "ProbeParts-v0", "num_envs": 4},
            "evaluation": {"period": 10**6, "episodes": 8},
            **content,
        },
        "test",
    )


REPLAY = {"capacity": 1000, "min_replay_size": 64, "chunk_rows": 16}
RATES = {"total_env_steps": 160, "batch_size": 16}
RUNS = {
    "dqn": run_of("dqn", network={"hidden": [8], "image": SEEN}, replay=REPLAY, dqn=RATES),
    "sac": run_of("sac", network={"hidden": [8]}, replay=REPLAY, sac=RATES),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_parts_are_served(name: str, resources: Resources, tmp_path: Path) -> None:
    run = RunStore(tmp_path / "runs").create("probe", RUNS[name])
    assert execute(run, resources) == training_pb2.RUN_STATUS_SUCCEEDED
    published = PublishedPolicy(resources.registry, "probe", "stable")
    expected = published.greedy(together())
    process = InferenceProcess(tmp_path / "policies", tmp_path / "log")
    try:
        client, given = process.client, parts(CASES)
        spaces = client.policy("probe").spec.observation.parts
        assert list(spaces["picture"].shape) == [8, 12, 1]
        assert spaces["state"].n == 3
        np.testing.assert_array_equal(client.act_batch(given).actions, expected)
        for i, action in enumerate(expected):
            one = {key: part[i] for key, part in given.items()}
            assert client.act(one).action == action
        _check_refusals(client, {key: part[0] for key, part in given.items()})
    finally:
        process.stop()


def _check_refusals(client: Any, one: dict[str, Any]) -> None:
    refused: list[tuple[Any, str]] = [
        ({**one, "state": 3}, "part 'state'.*0 to 2"),
        ({**one, "picture": one["picture"][:4]}, r"part 'picture'.*\[8, 12, 1\]"),
        ({"picture": one["picture"]}, "expected .*'picture', 'state', 'vector'"),
        ({**one, "vector": [np.nan, 0]}, "part 'vector'.*finite"),
        (one["vector"], "expected parts: picture"),
    ]
    for observation, message in refused:
        with pytest.raises(errors.InvalidInput, match=message):
            client.act(observation)
    batch = {key: np.asarray(part)[None] for key, part in one.items()}
    batch["vector"] = np.repeat(batch["vector"], 2, axis=0)
    with pytest.raises(errors.InvalidInput, match="different numbers of observations"):
        client.act_batch(batch)


def test_what_takes_one_array_refuses_parts() -> None:
    with pytest.raises(InvalidConfig, match="several parts"):
        replay_schema(SPEC, 2)
    with pytest.raises(InvalidConfig, match="observes several parts"):
        open_environment(EnvironmentConfig(id="ProbeParts-v0"))
