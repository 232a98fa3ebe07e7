"""Every command against services with recorded answers, as a person would call it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fake_platform import FakePlatform, a_run

from services.cli import main
from services.cli.act import facts
from services.cli.main import COMMANDS
from services.common.ports import free_port
from tutelage import Decision
from tutelage.v1 import policy_pb2, training_pb2


def run(*arguments: str) -> Result:
    """Call the command; what it fails with must be for people."""
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def text(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def error(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from services.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'grpc', 'numpy', 'streamlit'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert all(name in output for name in COMMANDS)
    assert output.endswith("heavy: []\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_there_and_shows_examples(name: str) -> None:
    output = text(name, "--help")
    assert "Examples:" in output
    assert f"tutelage {name}" in output


def test_runs_are_listed(platform: FakePlatform) -> None:
    platform.training.save(a_run("cartpole-dqn-1"))
    lines = text("runs").splitlines()
    assert lines[0].split() == [
        "run",
        "preset",
        "status",
        "progress",
        "return",
        "versions",
        "created",
    ]
    assert "cartpole-dqn-1  cartpole-dqn  running" in lines[1]
    assert "10,000 of 30,000 env steps  201.5   1–3" in lines[1]
    assert "no runs yet" in text("runs", "--policy", "walker")


def test_a_run_is_shown_with_its_configuration(platform: FakePlatform) -> None:
    platform.training.save(a_run("cartpole-dqn-1"))
    output = text("runs", "show", "cartpole-dqn-1")
    assert "status       running\n" in output
    assert "checkpoint   10,000 steps\n" in output
    assert output.endswith("\nseed: 7\n")


def test_a_run_is_shown_with_what_is_kept_of_it(platform: FakePlatform) -> None:
    kept = a_run("cartpole-dqn-1")
    for env_steps, score in ((5_000, 199.5), (7_500, None), (10_000, 12.25)):
        best = score == 199.5
        kept.checkpoints.add(env_steps=env_steps, score=score, best=best, bytes=1_234_567)
    platform.training.save(kept)
    lines = text("runs", "show", "cartpole-dqn-1").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("checkpoint    score"))
    assert [line.split() for line in lines[start + 1 : start + 4]] == [
        ["5,000", "steps", "199.5", "best", "1.2", "MB"],
        ["7,500", "steps", "1.2", "MB"],
        ["10,000", "steps", "12.2", "newest", "1.2", "MB"],
    ]


def test_a_run_without_a_checkpoint_begins_anew(platform: FakePlatform) -> None:
    fresh = a_run("cartpole-dqn-1")
    fresh.status, fresh.checkpoint_env_steps = training_pb2.RUN_STATUS_FAILED, 0
    platform.training.save(fresh)
    assert "goes on from its beginning, for it has no checkpoint" in (
        text("runs", "resume", "cartpole-dqn-1")
    )


def test_a_run_is_stopped_and_resumed(platform: FakePlatform) -> None:
    platform.training.save(a_run("cartpole-dqn-1"))
    assert text("runs", "stop", "cartpole-dqn-1") == (
        "cartpole-dqn-1 is stopped, checkpoint at 10,000 steps\n"
    )
    assert text("runs", "resume", "cartpole-dqn-1") == (
        "cartpole-dqn-1 is running again and goes on from its checkpoint at 10,000 env steps; "
        "follow it with: tutelage runs watch cartpole-dqn-1\n"
    )
    assert error("runs", "resume", "cartpole-dqn-1") == (
        "Error: run cartpole-dqn-1 is running already\n"
    )


def test_a_run_is_watched_until_it_is_done(platform: FakePlatform) -> None:
    going = platform.training.save(a_run("cartpole-dqn-1"))
    done = training_pb2.Run()
    done.CopyFrom(going)
    done.status = training_pb2.RUN_STATUS_SUCCEEDED
    timer = threading.Timer(0.2, platform.training.save, [done])
    timer.start()
    output = text("runs", "watch", "cartpole-dqn-1")
    timer.join()
    assert "33% · return 201.5" in output
    assert "✓ cartpole version 3 published\n" in output
    assert output.endswith("✓ cartpole-dqn-1 is done\n")


def test_watching_a_run_that_failed_says_why_and_fails(platform: FakePlatform) -> None:
    failed = a_run("cartpole-dqn-1")
    failed.status = training_pb2.RUN_STATUS_FAILED
    failed.error = "the disk is full"
    platform.training.save(failed)
    result = run("runs", "watch", "cartpole-dqn-1")
    assert result.exit_code == 1
    assert "✗ cartpole-dqn-1 failed: the disk is full; go on with: tutelage runs resume" in (
        result.output
    )


def test_an_unknown_run_is_one_line(platform: FakePlatform) -> None:
    for verb in ("show", "watch", "stop", "resume"):
        assert error("runs", verb, "nope") == "Error: no run 'nope'\n"


def test_policies_are_listed_newest_version_first(platform: FakePlatform) -> None:
    lines = text("policies").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["cartpole", v] for v in "321"]
    assert "stable" in lines[1]
    assert "loaded  dqn        450.0 over 20  30,000     cartpole-dqn-1" in lines[1]
    assert "canary" in lines[2]


def test_an_alias_the_server_does_not_follow_yet_has_a_star() -> None:
    from services.cli.policies import aliases, state

    policy = policy_pb2.Policy(aliases={"stable": 4, "canary": 4}, serving={"canary": 4})
    assert aliases(policy, 4) == "canary, stable*"
    assert state(policy_pb2.PolicyVersion(load_error="wrong digest")) == "refused: wrong digest"


def test_before_there_is_a_policy_the_next_step_is_named(platform: FakePlatform) -> None:
    (platform.policies.folder / "served").unlink()
    assert "tutelage train cartpole-dqn" in text("policies")


def test_act_takes_negative_numbers_and_names_the_action(platform: FakePlatform) -> None:
    output = text("act", "-0.1", "0", "-1e-3", ".5", "--policy", "cartpole")
    request = platform.policies.requests[-1]
    assert isinstance(request, policy_pb2.ActRequest)
    assert list(request.observation.values) == [-0.1, 0, -1e-3, 0.5]
    assert output.splitlines() == [
        "action           1 (right)",
        "version          3 (digest abababababab…)",
        "log-probability  -0.250000",
    ]


def test_act_samples_with_a_seed_and_shows_probabilities(platform: FakePlatform) -> None:
    output = text(
        "act", "0", "0", "0", "0", "--sample", "--seed", "7", "--probabilities",
        "--temperature", "2", "--version", "2",
    )  # fmt: skip
    request = platform.policies.requests[-1]
    assert isinstance(request, policy_pb2.ActRequest)
    assert request.selection == policy_pb2.ACTION_SELECTION_SAMPLE
    assert (request.seed, request.temperature, request.version) == (7, 2.0, 2)
    assert "seed             7\n" in output
    assert "P(1 (right))     0.750000\n" in output


def test_act_says_what_does_not_fit(platform: FakePlatform) -> None:
    assert error("act", "0") == "Error: observation has shape [1]\n"
    assert error("act", "0", "0", "--policy", "nope") == "Error: no policy 'nope'\n"
    assert run("act", "0", "--smaple").exit_code == 2
    assert run("act", "0", "--seed", "1").exit_code == 2


def test_promote_and_rollback_move_an_alias(platform: FakePlatform) -> None:
    assert text("promote", "cartpole", "3") == "cartpole: stable is version 3 (was 3)\n"
    assert text("rollback", "cartpole", "--alias", "canary") == (
        "cartpole: canary is version 2 (was 3)\n"
    )
    request = platform.policies.requests[-1]
    assert isinstance(request, policy_pb2.SetAliasRequest)
    assert (request.alias, request.previous) == ("canary", True)
    assert "has no version 9" in error("promote", "cartpole", "9")


def test_share_gives_a_canary_some_of_the_calls(platform: FakePlatform) -> None:
    assert text("share", "cartpole", "0.05") == (
        "cartpole: canary, version 2, answers 0.05 of the calls for stable\n"
    )
    request = platform.policies.requests[-1]
    assert isinstance(request, policy_pb2.SetAliasRequest)
    assert (request.alias, request.share) == ("canary", 0.05)
    assert request.WhichOneof("target") is None
    assert "is shown 1 of" in text("share", "cartpole", "1", "--alias", "shadow")
    assert run("share", "cartpole", "1.5").exit_code == 2


def test_a_service_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("TUTELAGE_TRAINER_ADDRESS", address)
    monkeypatch.setenv("TUTELAGE_INFERENCE_ADDRESS", address)
    expected = f"at {address} does not answer; is `make run` going?\n"
    assert error("runs") == f"Error: the trainer {expected}"
    assert error("act", "0") == f"Error: the inference service {expected}"


def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_GRACE_S", "soon")
    assert "TUTELAGE_GRACE_S='soon'" in error("runs")


def test_the_command_is_installed() -> None:
    program = Path(sys.executable).with_name("tutelage")
    done = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("tutelage, version ")


def test_act_prints_every_element_of_an_action() -> None:
    chances = np.array([0.1, 0.9, 1.0])
    decided = Decision(np.array([1, 0]), 1, "d" * 64, -0.1, 0, chances)
    pad = policy_pb2.ActionSpace(kind=policy_pb2.ACTION_KIND_MULTI_DISCRETE, nvec=[2, 1])
    lines = dict(facts(decided, pad))
    assert lines["action"] == "[1, 0]"
    assert [lines[f"P({choice})"] for choice in ("0: 0", "0: 1", "1: 0")] == [
        "0.100000",
        "0.900000",
        "1.000000",
    ]
    box = policy_pb2.ActionSpace(kind=policy_pb2.ACTION_KIND_BOX, shape=[1], low=[-2], high=[2])
    torque = Decision(np.array([0.1], np.float32), 1, "d" * 64, 1.5, 7)
    assert dict(facts(torque, box))["action"] == "[0.1]"
