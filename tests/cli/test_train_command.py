"""`tutelage train` as a person calls it: a process of its own, in a folder that is empty."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from trainer_process import ENDLESS, SHORT, TrainerProcess

from services.cli import main
from services.cli.launcher.data_folder import claimed
from services.common.embedded_redis import EmbeddedRedis
from services.common.registry import PolicyRegistry
from services.trainer.config import load_preset, parse, preset_names
from services.trainer.runs.store import RunStore, RunView
from tutelage.v1 import training_pb2 as pb

PROGRAM = Path(sys.executable).with_name("tutelage")
WAIT_S = 120.0


class Terminal:
    """Starts `tutelage train` as a shell does, in a process group of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder, self._settings = folder, settings
        self._started: list[subprocess.Popen[str]] = []

    def train(self, *arguments: str, **overrides: str) -> subprocess.Popen[str]:
        settings = [part for k, v in overrides.items() for part in ("--set", f"{k}={v}")]
        own = {k: v for k, v in os.environ.items() if not k.startswith("TUTELAGE_")}
        process = subprocess.Popen(
            [PROGRAM, "train", *arguments, *settings],
            env=own | self._settings | {"TUTELAGE_DATA_DIR": str(self._folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self) -> pb.Run:
        """The only run there is."""
        (folder,) = RunStore(self._folder / "runs").all()
        return RunView(folder).refresh()

    def wait_for_checkpoint(self, process: subprocess.Popen[str], after: int = 0) -> None:
        """Return once the run has a checkpoint beyond that many steps."""
        deadline = time.monotonic() + WAIT_S
        while not any(self._folder.glob("runs/*/run.json")) or (
            self.run().checkpoint_env_steps <= after
        ):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        """Leave nothing behind."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path)
    yield found
    found.stop()


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code, and what it said on stdout and stderr."""
    stdout, stderr = process.communicate(timeout=WAIT_S)
    return process.returncode, stdout, stderr


def press(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    """Send a signal to the whole group, as Ctrl-C does."""
    os.killpg(process.pid, number)
    return end(process)


def test_a_run_in_the_foreground_publishes_and_ends_well(
    terminal: Terminal, tmp_path: Path
) -> None:
    code, stdout, stderr = end(terminal.train("cartpole-dqn", "--seed", "5", **SHORT))
    assert (code, stderr) == (0, ""), stderr
    run = terminal.run()
    assert (run.status, run.seed) == (pb.RUN_STATUS_SUCCEEDED, 5)
    assert f"• run {run.run_id}; Ctrl-C saves a checkpoint\n" in stdout
    assert "cartpole version 1 published" in stdout
    registry = PolicyRegistry(str(tmp_path / "policies"))
    assert registry.versions("cartpole") == list(run.published_versions)
    assert registry.aliases("cartpole")["stable"].version in run.published_versions
    assert registry.manifest("cartpole", 1).run_id == run.run_id


def test_ctrl_c_saves_a_checkpoint_from_which_the_run_goes_on(terminal: Terminal) -> None:
    process = terminal.train("cartpole-dqn", **ENDLESS)
    terminal.wait_for_checkpoint(process)
    code, stdout, stderr = press(process, signal.SIGINT)
    assert (code, stderr) == (0, ""), stderr
    run = terminal.run()
    assert run.status == pb.RUN_STATUS_STOPPED
    assert stdout.endswith(
        f"stopped with a checkpoint at {run.checkpoint_env_steps:,} env steps; "
        f"go on with: tutelage train --resume {run.run_id}\n"
    )

    command = re.findall(r"tutelage train (--resume \S+)\n", stdout)[0]
    process = terminal.train(*command.split())
    terminal.wait_for_checkpoint(process, after=run.checkpoint_env_steps)
    code, stdout, stderr = press(process, signal.SIGTERM)
    assert (code, stderr) == (0, ""), stderr
    assert f"resumed at {run.checkpoint_env_steps} env steps" in stdout
    assert terminal.run().checkpoint_env_steps > run.checkpoint_env_steps


def test_a_killed_run_goes_on_exactly_and_says_from_where(terminal: Terminal) -> None:
    """The Valkey of its own dies with it."""
    process = terminal.train("cartpole-dqn", **(ENDLESS | {"deterministic": "true"}))
    terminal.wait_for_checkpoint(process)
    press(process, signal.SIGKILL)
    killed = terminal.run()
    process = terminal.train("--resume", killed.run_id)
    terminal.wait_for_checkpoint(process, after=killed.checkpoint_env_steps)
    code, stdout, stderr = press(process, signal.SIGINT)
    assert (code, stderr) == (0, ""), stderr
    said = re.findall(r"resumed at (\d+) env steps, exactly as it was then", stdout)
    # It may have been killed after a checkpoint and before it could say so.
    assert [int(steps) >= killed.checkpoint_env_steps for steps in said] == [True]


def test_a_loss_that_is_no_number_is_one_line_with_the_checkpoint(terminal: Terminal) -> None:
    wild = {
        "dqn.learning_rate": "1e30",
        "dqn.env_steps_per_update": "1",
        "replay.min_replay_size": "300",
        "checkpoint.period": "16",
    }
    code, _, stderr = end(terminal.train("cartpole-dqn", **(ENDLESS | wild)))
    run = terminal.run()
    assert code == 1
    assert stderr.startswith(f"Error: {run.run_id} failed: ")
    assert f"last good checkpoint: {run.checkpoint_env_steps} env steps. Try a lower" in stderr
    assert stderr.count("\n") == 1


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal beside a platform that is running on the same folder."""
    with claimed(tmp_path), EmbeddedRedis(tmp_path / "redis") as server:
        trainer = TrainerProcess(tmp_path, server.url)
        found = Terminal(tmp_path, TUTELAGE_TRAINER_ADDRESS=trainer.address)
        yield found
        found.stop()
        trainer.stop()


def test_beside_a_running_platform_its_trainer_does_the_work(beside: Terminal) -> None:
    code, stdout, stderr = end(beside.train("cartpole-dqn", "--seed", "3", **SHORT))
    assert (code, stderr) == (0, ""), stderr
    run = beside.run()
    assert (run.status, run.seed) == (pb.RUN_STATUS_SUCCEEDED, 3)
    assert f"run {run.run_id}, in the trainer that is running\n" in stdout
    assert "cartpole version 1 published" in stdout


def test_ctrl_c_beside_a_running_platform_stops_the_run_there(beside: Terminal) -> None:
    process = beside.train("cartpole-dqn", **ENDLESS)
    beside.wait_for_checkpoint(process)
    code, stdout, stderr = press(process, signal.SIGINT)
    assert (code, stderr) == (0, ""), stderr
    run = beside.run()
    assert run.status == pb.RUN_STATUS_STOPPED
    assert stdout.endswith(
        f"stopped with a checkpoint at {run.checkpoint_env_steps:,} env steps; "
        f"go on with: tutelage runs resume {run.run_id}\n"
    )


def test_a_run_that_fails_says_why_in_one_line(terminal: Terminal) -> None:
    code, _, stderr = end(terminal.train("cartpole-rlhf"))
    assert code == 1
    run = terminal.run()
    assert stderr == (
        f"Error: {run.run_id} failed: policy 'cartpole' has no version 'stable'; train one first\n"
    )


# --- what is refused before anything starts ----------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_DATA_DIR", str(tmp_path))
    return tmp_path


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_presets_are_listed_with_a_line_each(folder: Path) -> None:
    result = call("--list")
    assert result.exit_code == 0
    headings, *lines = result.output.splitlines()
    assert headings.split() == ["preset", "environment", "algorithm", "steps", "what", "for"]
    assert [line.split()[0] for line in lines] == preset_names()
    assert all("#" not in line for line in lines)
    (lecture,) = (line for line in lines if line.startswith("cartpole-dqn-lecture"))
    assert lecture.split()[1:4] == ["CartPole-v1", "dqn", "60,000"]
    assert CliRunner().invoke(main, ["presets"]).output == result.output


def test_a_preset_shows_every_key_that_can_be_replaced() -> None:
    result = CliRunner().invoke(main, ["presets", "cartpole-ppo"])
    assert result.exit_code == 0
    comment, *config = result.output.splitlines()
    assert comment.startswith("# Balances")
    assert parse(yaml.safe_load("\n".join(config)), "shown") == load_preset("cartpole-ppo")
    refused = CliRunner().invoke(main, ["presets", "pole"])
    assert refused.exit_code == 1
    assert "no preset 'pole'; there are: " in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pole"], "no preset 'pole'; there are: acrobot-dqn, "),
        (["cartpole-dqn", "--set", "dqn.n_stpe=3"], "'dqn.n_stpe', nearest is 'dqn.n_step'"),
        (["cartpole-dqn", "--set", "dqn.n_step=0"], "dqn.n_step: Input should be greater than"),
        (["cartpole-dqn", "--set", "dqn.n_step.x=1"], "'n_step' is a value, not a group of keys"),
        (["cartpole-dqn", "--set", "dqn.n_step=["], "'[' is not a YAML value"),
        (["--resume", "cartpole-dqn-1"], "no run 'cartpole-dqn-1'; `tutelage runs` lists them"),
        (["--resume", "../runs"], "no run '../runs'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_one_line(
    folder: Path, arguments: list[str], message: str
) -> None:
    result = call(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say either a PRESET, see --list, or --resume RUN_ID"),
        (["cartpole-dqn", "--resume", "x"], "say either a PRESET"),
        (["cartpole-dqn", "--set", "seed"], "--set seed: expected KEY=VALUE"),
        (["cartpole-dqn", "--seed", "-1"], "-1 is not in the range"),
    ],
)
def test_a_call_that_makes_no_sense_shows_the_usage(
    folder: Path, arguments: list[str], message: str
) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
