"""Tokens and roles, before any transport."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from pending_call import PendingCall

from services.common.errors import InvalidConfig, PermissionDenied, Unauthenticated
from services.common.server.access import Access, Role, guarded, read_tokens
from services.common.server.calls import (
    BatchMethod,
    Call,
    Method,
    MethodTable,
    Reply,
    StreamMethod,
    UnaryMethod,
)

ACTING, RUNNING = "a-robot-may-act-with-this", "an-operator-promotes-with-this"


@pytest.fixture
def access(tmp_path: Path) -> Access:
    hashed = hashlib.sha256(RUNNING.encode()).hexdigest()
    path = tmp_path / "tokens"
    path.write_text(f"# who may what\n\nact,report {ACTING}\nadmin sha256:{hashed}\n")
    return Access(read_tokens(path))


def call_with(token: str | None, key: str = "authorization", scheme: str = "Bearer") -> PendingCall:
    call = PendingCall()
    if token is not None:
        call.metadata = (("x-other", "1"), (key, f"{scheme} {token}"))
    return call


@pytest.mark.parametrize(
    ("token", "role"),
    [(ACTING, "act"), (ACTING, "report"), (RUNNING, "admin"), (RUNNING, "act")],
)
def test_a_token_allows_what_its_roles_say_and_admin_allows_all(
    access: Access, token: str, role: Role
) -> None:
    assert access.refusal(call_with(token), role) is None


def test_a_role_that_the_token_lacks_is_refused_by_name(access: Access) -> None:
    refusal = access.refusal(call_with(ACTING), "admin")
    assert isinstance(refusal, PermissionDenied)
    assert str(refusal) == "Act needs role admin, the token has act and report"


@pytest.mark.parametrize("token", [None, "", "never-given-to-anybody", ACTING[:-1], ACTING + "x"])
def test_no_token_or_an_unknown_one_is_unauthenticated(access: Access, token: str | None) -> None:
    assert isinstance(access.refusal(call_with(token), "act"), Unauthenticated)


def test_the_scheme_may_be_written_in_any_case_but_must_be_there(access: Access) -> None:
    assert access.refusal(call_with(ACTING, scheme="bearer"), "act") is None
    assert isinstance(access.refusal(call_with(ACTING, scheme="Basic"), "act"), Unauthenticated)


def test_what_is_refused_does_not_repeat_the_token(access: Access) -> None:
    refusal = access.refusal(call_with("never-given-to-anybody"), "act")
    assert "never-given" not in str(refusal)


def test_without_tokens_everything_is_open_on_the_machine_itself() -> None:
    assert Access().refusal(PendingCall(), "admin") is None


def test_without_tokens_beyond_the_machine_administration_is_closed() -> None:
    access = Access(admin_is_open=False)
    assert access.refusal(PendingCall(), "act") is None
    assert "TUTELAGE_INFERENCE_TOKENS" in str(access.refusal(PendingCall(), "admin"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "has no token"),
        ("# nothing\n", "has no token"),
        ("pilot 0123456789abcdef", "line 1: no role 'pilot', expected some of act, report, admin"),
        ("act,  0123456789abcdef", "line 1: no role '', expected some of"),
        ("\nact too-short", "line 2: expected roles, a blank, and a token of 16 or more"),
        ("act", "line 1: expected roles, a blank, and a token"),
        ("act sha256:12ab", "line 1: expected 64 hexadecimal digits after sha256:"),
        ("act sha256:" + "x" * 64, "line 1: expected 64 hexadecimal digits after sha256:"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(
    tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(InvalidConfig, match=complaint) as refused:
        read_tokens(path)
    assert "0123456789abcdef" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="tokens cannot be read"):
        read_tokens(tmp_path / "none")


def act_on_all(calls: Sequence[Call]) -> Sequence[Reply | None]:
    return [None if call.content == b"later" else call.content * 2 for call in calls]


async def act_on_one(call: Call) -> bytes:
    return call.content * 2


async def act_on_each(contents: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    async for content in contents:
        yield content * 2


def guard(method: Method, access: Access) -> Method:
    return guarded(MethodTable("s", {"M": method}), {"M": "act"}, access).methods["M"]


def test_of_a_batch_those_that_may_are_answered_in_their_places(access: Access) -> None:
    method = guard(BatchMethod(act_on_all), access)
    assert isinstance(method, BatchMethod)
    calls = [call_with(token) for token in (ACTING, None, RUNNING, ACTING)]
    for call, content in zip(calls, (b"a", b"b", b"later", b"d"), strict=True):
        call.content = content
    first, second, third, fourth = method.handle(calls)
    assert (first, third, fourth) == (b"aa", None, b"dd")
    assert isinstance(second, Unauthenticated)


def test_a_batch_that_nobody_may_ask_for_does_not_reach_the_handler(access: Access) -> None:
    def handle(calls: Sequence[Call]) -> Sequence[Reply | None]:
        assert not calls
        return []

    method = guard(BatchMethod(handle), access)
    assert isinstance(method, BatchMethod)
    assert isinstance(method.handle([call_with(None)])[0], Unauthenticated)


def test_a_single_call_is_guarded(access: Access) -> None:
    method = guard(UnaryMethod(act_on_one), access)
    assert isinstance(method, UnaryMethod)
    call = call_with(ACTING)
    call.content = b"a"
    assert asyncio.run(method.handle(call)) == b"aa"  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated):
        asyncio.run(method.handle(call_with(None)))  # type: ignore[arg-type]


async def test_a_stream_is_guarded_before_its_first_message_is_read(access: Access) -> None:
    async def contents() -> AsyncIterator[bytes]:
        yield b"a"

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    method = guard(StreamMethod(act_on_each), access)
    assert isinstance(method, StreamMethod)
    assert [reply async for reply in method.handle(contents(), call_with(ACTING))] == [b"aa"]
    with pytest.raises(Unauthenticated):
        await anext(method.handle(never(), call_with(None)))


def test_where_nobody_is_refused_nobody_is_asked() -> None:
    method = BatchMethod(act_on_all)
    assert guard(method, Access()) is method
