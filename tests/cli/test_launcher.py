"""The launcher as a process: what a person sees of it, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fake_platform import FakeTraining, a_run

from services.cli.launcher import data_folder
from services.cli.launcher.data_folder import claimed
from services.cli.launcher.platform_children import (
    LauncherSettings,
    Listener,
    check_ports,
    check_redis,
    listeners,
)
from services.common.errors import (
    InvalidConfig,
    PreconditionFailed,
    ResourceExhausted,
    StorageFull,
    Unavailable,
)
from services.common.ports import free_port
from tutelage.v1 import training_pb2

SCRIPT = Path(__file__).with_name("fake_launcher.py")


class Launched:
    """A launcher under way, with what it printed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "up"],
            env={**os.environ, "GRPC_VERBOSITY": "ERROR", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._grown:
                    self.output += line
                    self._grown.notify_all()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Return once it has printed the text that often."""
        with self._grown:
            found = self._grown.wait_for(lambda: self.output.count(text) >= times, timeout=60)
        assert found, f"{text!r} is not in:\n{self.output}"

    def children(self) -> dict[str, psutil.Process]:
        """Its processes, by the last part of their command lines."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return {[part for part in child.cmdline() if part][-1]: child for child in found}

    def end(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self._reader.join()
        return code


Launch = Callable[..., Launched]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A data folder and ports of its own."""
    addresses = {
        f"TUTELAGE_{name}_ADDRESS": f"127.0.0.1:{free_port()}"
        for name in ("INFERENCE", "TRAINER", "FEEDBACK")
    }
    return {
        "TUTELAGE_DATA_DIR": str(tmp_path / "var"),
        "TUTELAGE_APP_PORT": str(free_port()),
        **addresses,
    }


@pytest.fixture
def launch(environment: dict[str, str]) -> Iterator[Launch]:
    launched: list[Launched] = []

    def start(**more: str) -> Launched:
        launched.append(Launched({**environment, **more}))
        return launched[-1]

    yield start
    for one in launched:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def test_the_whole_story_is_told_and_ctrl_c_ends_it(
    launch: Launch, environment: dict[str, str]
) -> None:
    up = launch()
    up.wait_for("Everything is up.")
    up.wait_for("started cartpole-dqn-1 (preset cartpole-dqn)")
    up.wait_for("cartpole-dqn-1 33% · return 201.5 · 1,250 env steps/s · 0:16 left")
    up.wait_for("cartpole version 3 published (mean return 483.1 over 100 episodes)\n")
    data = Path(environment["TUTELAGE_DATA_DIR"])
    (data / "served").touch()
    up.wait_for("serving cartpole version 3\n")
    up.wait_for("started cartpole-segments-1 (preset cartpole-segments)")
    children = up.children()
    assert len(children) == 4
    assert up.end(signal.SIGINT) == 0
    assert not any(child.is_running() for child in children.values())
    assert "Traceback" not in up.output
    assert up.output.count(f"{environment['TUTELAGE_INFERENCE_ADDRESS']} tutelage.v1") == 2
    tokens = (data / "tokens").read_text().split()
    assert tokens == ["first-cartpole-dqn", "first-cartpole-segments"]


def test_a_second_start_goes_on_and_starts_no_second_run(
    launch: Launch, environment: dict[str, str]
) -> None:
    up = launch()
    up.wait_for("started cartpole-dqn-1")
    assert up.end(signal.SIGTERM) == 0
    again = launch()
    again.wait_for("cartpole-dqn-1 33%")
    assert again.end(signal.SIGTERM) == 0
    tokens = Path(environment["TUTELAGE_DATA_DIR"]) / "tokens"
    assert tokens.read_text().split() == ["first-cartpole-dqn"]


def test_with_a_policy_there_nothing_is_trained_and_nothing_said_twice(
    launch: Launch, environment: dict[str, str]
) -> None:
    data = Path(environment["TUTELAGE_DATA_DIR"])
    data.mkdir()
    (data / "served").touch()
    up = launch()
    up.wait_for("started cartpole-segments-1")
    assert up.end(signal.SIGTERM) == 0
    assert up.output.count("tutelage.v1.PolicyService/Act") == 1
    assert (data / "tokens").read_text().split() == ["first-cartpole-segments"]


def test_a_run_that_failed_is_gone_on_with(launch: Launch, environment: dict[str, str]) -> None:
    data = Path(environment["TUTELAGE_DATA_DIR"])
    data.mkdir()
    failed = a_run("cartpole-dqn-1")
    failed.status = training_pb2.RUN_STATUS_FAILED
    failed.error = "the disk was full"
    FakeTraining(data).save(failed)
    up = launch()
    up.wait_for("going on with cartpole-dqn-1, which had failed: the disk was full")
    up.wait_for("cartpole-dqn-1 33%")
    assert up.end(signal.SIGTERM) == 0


def test_a_run_that_was_stopped_is_left_to_people(
    launch: Launch, environment: dict[str, str]
) -> None:
    data = Path(environment["TUTELAGE_DATA_DIR"])
    data.mkdir()
    stopped = a_run("cartpole-dqn-1")
    stopped.status = training_pb2.RUN_STATUS_STOPPED
    FakeTraining(data).save(stopped)
    up = launch()
    up.wait_for("go on with: tutelage runs resume cartpole-dqn-1")
    assert up.end(signal.SIGTERM) == 0
    assert not (data / "tokens").exists()


def test_a_service_killed_is_started_again_and_its_run_followed_on(
    launch: Launch, environment: dict[str, str]
) -> None:
    up = launch()
    up.wait_for("cartpole version 3 published")
    address = environment["TUTELAGE_TRAINER_ADDRESS"]
    up.children()[address].kill()
    up.wait_for("trainer ended by itself (killed by SIGKILL)")
    up.wait_for(f"trainer    {address}", times=3)  # ready, listed, and ready again
    assert up.end(signal.SIGINT) == 0
    assert "Traceback" not in up.output


def test_killing_the_launcher_leaves_no_orphan(launch: Launch) -> None:
    up = launch()
    up.wait_for("Everything is up.")
    children = up.children().values()
    up.end(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_only_one_launcher_uses_a_folder(launch: Launch) -> None:
    first = launch()
    first.wait_for("starting valkey")
    second = launch()
    assert second.process.wait(timeout=60) == 1
    second.wait_for("is running already on")
    assert f"process {first.process.pid}" in second.output
    assert "Traceback" not in second.output


def test_a_taken_port_is_one_line_and_nothing_is_started(
    launch: Launch, environment: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        up = launch(TUTELAGE_TRAINER_ADDRESS=f"127.0.0.1:{port}")
        assert up.process.wait(timeout=60) == 1
    up.wait_for("TUTELAGE_TRAINER_ADDRESS")
    assert up.output == (
        f"Error: port {port}, which trainer needs, is taken; stop what listens there, "
        "or set TUTELAGE_TRAINER_ADDRESS to another one\n"
    )


def test_a_redis_that_is_not_there_is_one_line(launch: Launch) -> None:
    up = launch(TUTELAGE_REDIS_URL=f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert up.process.wait(timeout=60) == 1
    up.wait_for("TUTELAGE_REDIS_URL names does not answer")
    assert up.output.count("\n") == 1
    assert "secret" not in up.output


def test_a_redis_url_that_is_none_is_said() -> None:
    with pytest.raises(InvalidConfig, match="TUTELAGE_REDIS_URL"):
        check_redis("localhost:6379")
    with pytest.raises(Unavailable):
        check_redis(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(Unavailable, match="names does not answer"):
        check_redis(f"redis+cluster://127.0.0.1:{free_port()}")


def test_two_services_that_want_one_port_are_named() -> None:
    port = free_port()
    needed = [Listener(port, "trainer", "A"), Listener(port, "pages", "B")]
    with pytest.raises(InvalidConfig, match=f"trainer and pages both want port {port}; set A or B"):
        check_ports(needed, "127.0.0.1")


def test_the_port_of_a_redis_that_is_elsewhere_is_not_needed() -> None:
    embedded = LauncherSettings(redis_port=6379)
    elsewhere = LauncherSettings(redis_port=6379, redis_url="redis://r:6379/0")
    assert "valkey" in [listener.owner for listener in listeners(embedded)]
    assert "valkey" not in [listener.owner for listener in listeners(elsewhere)]


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file, not a folder")
    with pytest.raises(PreconditionFailed, match="TUTELAGE_DATA_DIR"), claimed(tmp_path / "var"):
        pass


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "NEEDED_BYTES", 1 << 80)
    with pytest.raises(StorageFull, match="TUTELAGE_DATA_DIR"), claimed(tmp_path):
        pass


def test_the_lock_goes_with_its_owner(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(PreconditionFailed), claimed(tmp_path):
        pass
    with claimed(tmp_path):
        pass


def test_a_port_taken_on_all_addresses_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        needed = [Listener(other.getsockname()[1], "pages", "TUTELAGE_APP_PORT")]
        with pytest.raises(ResourceExhausted, match="TUTELAGE_APP_PORT"):
            check_ports(needed, "0.0.0.0")
