"""States of sessions: whose turn it is, what is forgotten, and for whom a state is good."""

from __future__ import annotations

import numpy as np
import pytest

from services.common.errors import ResourceExhausted
from services.inference.runner import States
from services.inference.session_states import (
    OVERHEAD_BYTES,
    WAITING,
    SessionKey,
    SessionLimits,
    Sessions,
)

KEEP = SessionLimits(most=100, most_bytes=1 << 20, idle_s=60.0)


class Turn:
    """A turn that notes what it begins with."""

    def __init__(self, session: str, digest: str = "a") -> None:
        self.key, self.digest = SessionKey.of("policy", session), digest
        self.began: tuple[list[float] | None, str] | None = None

    def begin(self, state: States | None, why_not: str) -> None:
        self.began = (None if state is None else state[0].tolist(), why_not)

    def go_on(self) -> None:
        raise AssertionError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def left(number: float) -> States:
    return np.full((1, 2), number, dtype=np.float32)


def asked(sessions: Sessions, session: str, leaves: float | None = 1.0, digest: str = "a") -> Turn:
    """A turn from its beginning to its end."""
    turn = Turn(session, digest)
    assert sessions.enter(turn)
    assert sessions.leave(turn, None if leaves is None else left(leaves)) is None
    return turn


def test_each_session_goes_on_where_it_was() -> None:
    sessions = Sessions(KEEP)
    assert asked(sessions, "ann", 1).began == (None, "unknown")
    assert asked(sessions, "bob", 2).began == (None, "unknown")
    assert asked(sessions, "ann", 3).began == ([1, 1], "")
    assert asked(sessions, "bob", 4).began == ([2, 2], "")
    assert asked(sessions, "ann", 5).began == ([3, 3], "")
    assert len(sessions) == 2


def test_turns_of_a_session_come_one_after_another() -> None:
    sessions = Sessions(KEEP)
    first, second, third, other = Turn("ann"), Turn("ann"), Turn("ann"), Turn("bob")
    assert [sessions.enter(turn) for turn in (first, second, third, other)] == [
        True,
        False,
        False,
        True,
    ]
    assert second.began is None
    assert sessions.leave(first, left(1)) is second
    assert (second.began, third.began) == (([1, 1], ""), None)
    assert sessions.leave(second, None) is third  # it failed: nothing has changed
    assert third.began == ([1, 1], "")
    assert sessions.leave(third, left(2)) is None
    assert asked(sessions, "ann").began == ([2, 2], "")


def test_no_more_than_so_many_wait() -> None:
    sessions = Sessions(KEEP)
    first = Turn("ann")
    sessions.enter(first)
    waiting = [Turn("ann") for _ in range(WAITING)]
    for turn in waiting:
        sessions.enter(turn)
    with pytest.raises(ResourceExhausted, match="64 decisions of this session are waiting"):
        sessions.enter(Turn("ann"))
    assert sessions.enter(Turn("bob"))


def test_a_state_is_good_for_the_version_that_left_it() -> None:
    sessions = Sessions(KEEP)
    asked(sessions, "ann", 1, digest="a")
    assert asked(sessions, "ann", 2, digest="b").began == (None, "version")
    assert asked(sessions, "ann", 3, digest="a").began == (None, "version")
    assert asked(sessions, "ann", 4, digest="a").began == ([3, 3], "")


def test_a_first_decision_that_fails_leaves_nothing() -> None:
    sessions = Sessions(KEEP)
    asked(sessions, "ann", None)
    assert len(sessions) == 0
    assert asked(sessions, "ann").began == (None, "unknown")


def test_the_longest_idle_is_forgotten_beyond_a_number() -> None:
    sessions = Sessions(SessionLimits(most=2, most_bytes=1 << 20, idle_s=60))
    for session in ("ann", "bob", "ann", "cid"):
        asked(sessions, session)
    assert asked(sessions, "ann").began == ([1, 1], "")
    assert asked(sessions, "bob").began == (None, "unknown")


def test_the_longest_idle_is_forgotten_beyond_so_many_bytes() -> None:
    each = left(0).nbytes + OVERHEAD_BYTES
    sessions = Sessions(SessionLimits(most=100, most_bytes=3 * each, idle_s=60))
    for session in "abcd":
        asked(sessions, session)
    assert len(sessions) == 3
    assert asked(sessions, "a").began == (None, "unknown")


def test_what_nobody_asks_for_is_forgotten_in_time() -> None:
    clock = Clock()
    sessions = Sessions(KEEP, clock)
    asked(sessions, "ann")
    clock.now = 50
    asked(sessions, "bob")
    clock.now = 100
    assert asked(sessions, "bob").began == ([1, 1], "")
    assert len(sessions) == 1
    assert asked(sessions, "ann").began == (None, "unknown")
