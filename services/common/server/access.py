"""Who may call what: bearer tokens with roles, compared in constant time.

A token travels as metadata, `authorization: Bearer <token>`, so TLS should be under it wherever
a network is not trusted. Health and reflection are open to everyone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from services.common.errors import (
    InvalidConfig,
    PermissionDenied,
    TutelageError,
    Unauthenticated,
)
from services.common.server.calls import (
    BatchHandler,
    BatchMethod,
    Call,
    Method,
    MethodTable,
    Reply,
    StreamHandler,
    StreamMethod,
    UnaryHandler,
    UnaryMethod,
)

Role = Literal["act", "report", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
ADMIN: Role = "admin"  # may do whatever the others may
SHORTEST = 16
HASHED = "sha256:"
KEY, SCHEME = "authorization", "bearer "


@dataclass(frozen=True)
class Token:
    """Somebody's right to call: the SHA-256 of what they show, and what it allows."""

    digest: bytes
    roles: frozenset[str]


@dataclass(frozen=True)
class Access:
    """What decides.

    tokens: those that are known; none where callers need none.
    admin_is_open: whether calls of the role admin are answered where callers need no token.
    """

    tokens: tuple[Token, ...] = ()
    admin_is_open: bool = True

    def refusal(self, call: Call, role: Role) -> TutelageError | None:
        """Why a call that needs a role is not answered; None when it is."""
        if not self.tokens:
            return None if self.admin_is_open or role != ADMIN else _closed(call)
        shown = _shown(call)
        if shown is None:
            return Unauthenticated(
                f"{_name(call)} needs a token: metadata {KEY}: Bearer <token>, of role {role}"
            )
        roles = self._roles(hashlib.sha256(shown).digest())
        if roles is None:
            return Unauthenticated("the token is not known here")
        if not roles & {role, ADMIN}:
            held = " and ".join(sorted(roles))
            return PermissionDenied(f"{_name(call)} needs role {role}, the token has {held}")
        return None

    def roles(self, call: Call) -> frozenset[str]:
        """Of the token that a caller shows; none where there is none, or it is not known."""
        shown = _shown(call) if self.tokens else None
        return (shown and self._roles(hashlib.sha256(shown).digest())) or frozenset()

    def _roles(self, digest: bytes) -> frozenset[str] | None:
        found = None
        for token in self.tokens:  # all of them, so that time does not tell which it was
            if hmac.compare_digest(token.digest, digest):
                found = token.roles
        return found


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Tokens from a file: a line each, roles with commas between and then the token.

    A token may be given as sha256:<hex>, so that the file tells it to nobody. Empty lines and
    those that begin with # do not count.

    Raises:
        InvalidConfig: naming file and line; what a token is is not repeated.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"tokens cannot be read from {path}: {error}") from None
    tokens = tuple(
        _token(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    )
    if not tokens:
        raise InvalidConfig(f"{path} has no token, expected lines such as: act,report <token>")
    return tokens


def _token(line: str, where: str) -> Token:
    named, _, shown = line.strip().partition(" ")
    roles = frozenset(role.strip() for role in named.split(","))
    if unknown := sorted(roles - set(ROLES)):
        raise InvalidConfig(f"{where}: no role {unknown[0]!r}, expected some of {', '.join(ROLES)}")
    shown = shown.strip()
    if shown.startswith(HASHED):
        try:
            digest = bytes.fromhex(shown.removeprefix(HASHED))
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise InvalidConfig(f"{where}: expected 64 hexadecimal digits after {HASHED}")
        return Token(digest, roles)
    if len(shown) < SHORTEST:
        raise InvalidConfig(f"{where}: expected roles, a blank, and a token of {SHORTEST} or more")
    return Token(hashlib.sha256(shown.encode()).digest(), roles)


def guarded(table: MethodTable, roles: Mapping[str, Role | None], access: Access) -> MethodTable:
    """The same methods, each for those who have the role it is listed with; None: everyone."""
    methods = {name: _guard(method, roles[name], access) for name, method in table.methods.items()}
    return replace(table, methods=methods)


def _guard(method: Method, role: Role | None, access: Access) -> Method:
    if role is None or (not access.tokens and (access.admin_is_open or role != ADMIN)):
        return method  # and nobody pays for asking
    match method:
        case BatchMethod(handle):
            return BatchMethod(_guard_batch(handle, role, access))
        case UnaryMethod(handle):
            return UnaryMethod(_guard_unary(handle, role, access))
        case StreamMethod(handle, stop):
            return StreamMethod(_guard_stream(handle, role, access), stop)


def _guard_batch(handle: BatchHandler, role: Role, access: Access) -> BatchHandler:
    def answer(calls: Sequence[Call]) -> Sequence[Reply | None]:
        replies: list[Reply | None] = [access.refusal(call, role) for call in calls]
        allowed = [i for i, refusal in enumerate(replies) if refusal is None]
        for i, reply in zip(allowed, handle([calls[i] for i in allowed]), strict=True):
            replies[i] = reply
        return replies

    return answer


def _guard_unary(handle: UnaryHandler, role: Role, access: Access) -> UnaryHandler:
    async def answer(call: Call) -> bytes:
        if refusal := access.refusal(call, role):
            raise refusal
        return await handle(call)

    return answer


def _guard_stream(handle: StreamHandler, role: Role, access: Access) -> StreamHandler:
    async def answer(contents: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        if refusal := access.refusal(call, role):
            raise refusal
        async for reply in handle(contents, call):
            yield reply

    return answer


def _shown(call: Call) -> bytes | None:
    for key, value in call.metadata:
        if key == KEY and isinstance(value, str) and value[: len(SCHEME)].lower() == SCHEME:
            return value[len(SCHEME) :].strip().encode()
    return None


def _closed(call: Call) -> PermissionDenied:
    return PermissionDenied(
        f"{_name(call)} is for administrators, and this service knows none: it listens beyond "
        "its own machine and has no tokens; set TUTELAGE_INFERENCE_TOKENS"
    )


def _name(call: Call) -> str:
    return call.method.rsplit("/", 1)[-1]
