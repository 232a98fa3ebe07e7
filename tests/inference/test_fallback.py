"""Default actions stand in place of the service's errors, and of nobody else's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_policies import CARTPOLE, box_model, linear_model, publish

from services.common.action_space import Box, Discrete, MultiDiscrete
from services.common.errors import (
    InvalidInput,
    ModelRejected,
    NotFound,
    PreconditionFailed,
    ResourceExhausted,
    StorageFull,
    Unavailable,
)
from services.common.registry import PolicyRegistry
from services.common.spec import Distribution, PolicySpec
from services.inference.core import VersionRefused
from services.inference.fallback import checked, reason_of
from services.inference.runner import ModelFailed
from tutelage import errors

STATE = np.array([0, 0, 0, 1], np.float32)
TOO_MUCH = np.full(4, 3e38, np.float32)  # from which no finite number comes
ARM = CARTPOLE.model_copy(
    update={
        "action": Box(shape=(2, 1), low=(-2, 0), high=(2, 10)),
        "distribution": Distribution.GAUSSIAN,
    }
)


@pytest.mark.parametrize("inline_us", [200, 0])  # at once, and from a queue
def test_what_the_model_cannot_answer_has_the_callers_default(
    start_service, registry: PolicyRegistry, inline_us: int
) -> None:
    publish(registry, linear_model())
    client = start_service(inference_inline_us=inline_us).client
    decision = client.act(TOO_MUCH, default=1)
    assert (decision.action, decision.version, decision.degraded) == (1, 0, True)
    sound = client.act(STATE, default=0)
    assert (sound.action, sound.version, sound.degraded) == (1, 1, False)
    with client.stream() as stream:
        assert not stream.act(STATE).degraded
    with pytest.raises(errors.InvalidInput, match="not finite"):
        client.act(TOO_MUCH)


def test_a_version_that_cannot_be_loaded_has_the_servers_default(
    start_service, registry: PolicyRegistry, tmp_path: Path
) -> None:
    publish(registry, linear_model(), alias="canary")
    publish(registry, b"no model", alias=None)
    publish(registry, b"no model")
    service = start_service(
        inference_default_actions='{"cartpole": 1}', inference_decision_log=tmp_path / "log"
    )
    for asked in ({}, {"version": 2}):
        decision = service.client.act(STATE, session="robot-1", **asked)
        assert (decision.action, decision.degraded) == (1, True)
    assert service.client.act(TOO_MUCH, alias="canary", mask=[True, True]).degraded
    assert service.client.act(STATE, default=0).action == 0
    with pytest.raises(errors.NotFound):
        service.client.act(STATE, mask=[True, False])  # which forbids the default
    with pytest.raises(errors.NotFound, match="no alias"):
        service.client.act(STATE, alias="none", default=0)
    assert service.stop() == 0
    assert service.records("call failed") == []
    (path,) = (tmp_path / "log" / "cartpole").iterdir()
    rows = pq.read_table(path).to_pylist()
    assert [row["degraded"] for row in rows] == [True] * 4
    assert [row["action"] for row in rows] == [1, 1, 1, 0]
    assert {row["version"] for row in rows} == {0}
    assert {(row["selection"], row["log_probability"]) for row in rows} == {(None, None)}
    assert [row["alias"] for row in rows] == ["stable", None, "canary", "stable"]
    assert rows[0]["observation"] == STATE.tolist()


def test_elements_of_a_box_and_defaults_that_do_not_fit(
    start_service, registry: PolicyRegistry
) -> None:
    weights = np.full((4, 2), 3, np.float32)
    publish(registry, box_model(ARM, weights, (0.0, 0.0)), policy="arm", spec=ARM)
    service = start_service(inference_default_actions='{"arm": [0.0, 11.0]}')
    decision = service.client.act(TOO_MUCH, default=[[0.5], [2.0]])
    assert decision.degraded
    assert isinstance(decision.action, np.ndarray)
    assert (decision.action.dtype, decision.action.tolist()) == (np.float32, [[0.5], [2.0]])
    for wrong in ([0.5], [3.0, 0.0], 1):
        with pytest.raises(errors.InvalidInput, match="default_action is"):
            service.client.act(STATE, default=wrong)
    with pytest.raises(errors.InvalidInput, match="shape"):
        service.client.act([1, 2, 3], default=[0.0, 0.0])
    with pytest.raises(errors.InvalidInput, match="not finite"):  # the server's own is no action
        service.client.act(TOO_MUCH)
    assert service.records("default action cannot be taken")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ResourceExhausted(""), "full"),
        (StorageFull(""), "full"),
        (Unavailable(""), "version"),
        (ModelRejected(""), "version"),
        (VersionRefused(""), "version"),
        (ModelFailed(""), "model"),
        (RuntimeError(), "model"),
        (InvalidInput(""), None),
        (NotFound(""), None),
        (PreconditionFailed(""), None),
    ],
)
def test_which_errors_are_the_services(error: Exception, reason: str | None) -> None:
    assert reason_of(error) == reason


def spec_of(action: Box | MultiDiscrete | Discrete, distribution: Distribution) -> PolicySpec:
    return CARTPOLE.model_copy(update={"action": action, "distribution": distribution})


def test_actions_are_checked_against_the_space_and_the_mask() -> None:
    pad = spec_of(MultiDiscrete(nvec=(3, 2)), Distribution.LOGITS)
    mask = np.array([[True, True, False, False, True]])
    assert checked([1, 1], pad, mask).tolist() == [[1, 1]]
    assert checked(0, CARTPOLE, None).tolist() == [0]
    for wrong, of in (([2, 1], pad), ([1, 0], pad)):
        with pytest.raises(InvalidInput, match="which the action mask forbids"):
            checked(wrong, of, mask)
    for given, of in (([3, 0], pad), ([0.5, 0], pad), (2, CARTPOLE), (-1, CARTPOLE), ("x", ARM)):
        with pytest.raises(InvalidInput, match="expected one of"):
            checked(given, of, None)  # type: ignore[arg-type]
