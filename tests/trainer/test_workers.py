"""Processes of runs, with stand-ins for training; the last test has the real ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from trainer_process import SHORT, TrainerProcess

from services.common.embedded_redis import EmbeddedRedis
from services.trainer.runs import workers
from services.trainer.runs.workers import Workers
from tutelage.v1 import training_pb2 as pb

# As what it was started, then the run it read.
ECHO = """
import sys
open(sys.argv[2], "a").write(" ".join(sys.argv[3:]) + ":" + sys.stdin.readline())
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stand-ins have said."""
    path = tmp_path / "said"

    def stand_in(command: list[str]) -> list[str]:
        return [sys.executable, "-c", ECHO, "--", str(path), *command[3:]]

    monkeypatch.setattr(workers, "leashed", stand_in)
    monkeypatch.setattr(workers, "SETTLING_S", 0.0)
    return path


@pytest.fixture
def one_ready(said: Path) -> Iterator[Workers]:
    """Workers of whom one is ready."""
    some = Workers(ready=1)
    some.make_ready()
    yield some
    some.close()


def stand_ins(said: Path) -> list[psutil.Process]:
    """Those that have not been reaped, among whatever else the tests have started."""
    return [child for child in psutil.Process().children() if is_one(child, said)]


def is_one(child: psutil.Process, said: Path) -> bool:
    try:
        return str(said) in child.cmdline()
    except psutil.ZombieProcess:
        return True


def kill_the_ready_one(said: Path) -> None:
    (child,) = stand_ins(said)
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


def test_a_process_that_is_ready_is_given_the_run(one_ready: Workers, said: Path) -> None:
    assert one_ready.start("run-1").wait() == 0
    assert said.read_text() == "ready:run-1\n"


def test_the_next_is_made_ready_after_a_run_was_started(one_ready: Workers, said: Path) -> None:
    one_ready.start("run-1").wait()
    one_ready.make_ready()
    one_ready.start("run-2").wait()
    assert said.read_text() == "ready:run-1\nready:run-2\n"


def test_while_a_run_settles_no_other_is_made_ready(
    one_ready: Workers, said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SETTLING_S", 3600.0)
    one_ready.start("run-1").wait()
    one_ready.make_ready()
    one_ready.start("run-2").wait()
    assert said.read_text() == "ready:run-1\nrun run-2:"


def test_one_that_died_meanwhile_is_replaced_by_a_new_process(
    one_ready: Workers, said: Path
) -> None:
    kill_the_ready_one(said)
    assert one_ready.start("run-1").wait() == 0
    assert said.read_text() == "run run-1:"


def test_one_that_dies_is_not_replaced_over_and_over(one_ready: Workers, said: Path) -> None:
    kill_the_ready_one(said)
    one_ready.make_ready()
    assert [child.status() for child in stand_ins(said)] == [psutil.STATUS_ZOMBIE]


def test_those_without_a_run_end_when_closed(one_ready: Workers, said: Path) -> None:
    assert stand_ins(said)
    one_ready.close()
    assert not stand_ins(said)


def test_none_is_ready_where_none_is_wanted(said: Path) -> None:
    some = Workers()
    some.make_ready()
    assert some.start("run-1").wait() == 0
    assert said.read_text() == "run run-1:"


def until_ready(trainer: TrainerProcess) -> int:
    while True:
        for child in trainer.process.children():
            if "ready" in child.cmdline():
                return int(child.pid)


def test_a_real_run_by_a_process_that_was_ready(
    tmp_path: Path, shared_valkey: EmbeddedRedis
) -> None:
    trainer = TrainerProcess(tmp_path, shared_valkey.url, ready_runs=1)
    try:
        ready = until_ready(trainer)
        run_id = trainer.start(SHORT)
        assert trainer.wait_until_ended(run_id).status == pb.RUN_STATUS_SUCCEEDED
        assert f'"pid": {ready}' in trainer.log
    finally:
        trainer.stop()
