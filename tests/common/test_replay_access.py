"""Users, passwords and TLS, all said in the URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from replay_operations import (
    OUTCOME_RULES,
    RULES,
    use_every_operation,
    use_every_operation_of_outcomes,
)
from replay_rig import SCHEMA
from tls_front import Certificates, tls_front

from services.common.embedded_redis import EmbeddedRedis
from services.common.errors import InvalidConfig, ReplayUnavailable
from services.common.replay import ReplayStore, connect
from services.common.replay.connection import explained

PASSWORD = "p@ss:w/rd?"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A server with a user who may do what a replay needs, and one who may only look."""
    with EmbeddedRedis(tmp_path_factory.mktemp("guarded")) as server:
        with connect(server.url) as admin:
            admin.execute_command("ACL", "SETUSER", "actor", "on", f">{PASSWORD}", *RULES)
            inference = (*RULES, *OUTCOME_RULES)
            admin.execute_command("ACL", "SETUSER", "inference", "on", ">tracks", *inference)
            admin.execute_command("ACL", "SETUSER", "guest", "on", ">guest", "~*", "+@read")
            admin.execute_command("ACL", "SETUSER", "default", "off")
        yield server


def url_for(user: str, password: str, port: int) -> str:
    return f"redis://{user}:{quote(password, safe='')}@127.0.0.1:{port}/0"


def test_a_user_with_the_rights_of_the_readme_can_do_everything(
    guarded: EmbeddedRedis, name: str
) -> None:
    use_every_operation(url_for("actor", PASSWORD, guarded.port), name)


def test_so_can_one_who_keeps_outcomes(guarded: EmbeddedRedis, name: str) -> None:
    use_every_operation_of_outcomes(url_for("inference", "tracks", guarded.port), name)


@pytest.mark.parametrize(
    ("user", "password"), [("actor", "wrong"), ("nobody", PASSWORD), ("guest", "guest")]
)
def test_who_is_refused_is_told_so_and_does_not_wait(
    guarded: EmbeddedRedis, name: str, user: str, password: str
) -> None:
    with (
        connect(url_for(user, password, guarded.port)) as client,
        pytest.raises(InvalidConfig, match=r"Redis refuses it.*TUTELAGE_REDIS_URL") as refused,
    ):
        ReplayStore(client, name, SCHEMA, 100)
    assert password not in str(refused.value) or user == "guest"


def test_nobody_in_particular_is_refused(guarded: EmbeddedRedis) -> None:
    with (
        connect(guarded.url) as client,
        pytest.raises(InvalidConfig, match="Redis refuses it"),
        explained("looking"),
    ):
        client.ping()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_port(guarded: EmbeddedRedis, certificates: Certificates) -> Iterator[int]:
    with tls_front(certificates, guarded.port) as port:
        yield port


def tls_url(port: int, authority: Path | None, own: tuple[Path, Path] | None) -> str:
    options = [f"ssl_ca_certs={authority}"] if authority else []
    if own:
        options += [f"ssl_certfile={own[0]}", f"ssl_keyfile={own[1]}"]
    url = url_for("actor", PASSWORD, port).replace("redis://", "rediss://")
    return f"{url}?{'&'.join(options)}"


def test_tls_with_certificates_on_both_sides(
    certificates: Certificates, tls_port: int, name: str
) -> None:
    use_every_operation(tls_url(tls_port, certificates.authority, certificates.client), name)


def test_a_server_that_nobody_trusted_vouches_for_is_refused(
    certificates: Certificates, tls_port: int, name: str
) -> None:
    with (
        connect(tls_url(tls_port, None, certificates.client)) as client,
        pytest.raises(InvalidConfig, match="not trusted, see ssl_ca_certs"),
    ):
        ReplayStore(client, name, SCHEMA, 100)


@pytest.mark.parametrize("plain", [False, True], ids=["no certificate", "no TLS"])
def test_a_client_that_the_server_does_not_want_gets_nowhere(
    certificates: Certificates, tls_port: int, name: str, plain: bool
) -> None:
    url = tls_url(tls_port, certificates.authority, None)
    if plain:
        url = url_for("actor", PASSWORD, tls_port)
    with connect(url) as client, pytest.raises(ReplayUnavailable):
        ReplayStore(client, name, SCHEMA, 100)
