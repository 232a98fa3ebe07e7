"""What recurrent policies remember of sessions, and whose turn it is in each."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, Protocol

from prometheus_client import Counter

from services.common.errors import ResourceExhausted
from services.inference import metrics
from services.inference.runner import States

WAITING = 64  # decisions of one session
OVERHEAD_BYTES = 512  # of a session, beside its state


class SessionKey(NamedTuple):
    """A session of a policy; of its name a hash, which is never long."""

    policy: str
    name: bytes

    @classmethod
    def of(cls, policy: str, session: str) -> SessionKey:
        """Its key."""
        return cls(policy, blake2b(session.encode(), digest_size=16).digest())


@dataclass(frozen=True)
class SessionLimits:
    """How many states are kept: so many, of so many bytes, and so many seconds after use."""

    most: int
    most_bytes: int
    idle_s: float


class Turn(Protocol):
    """A decision of a session, which has its turn once those before it are made."""

    key: SessionKey
    digest: str

    def begin(self, state: States | None, why_not: str) -> None:
        """It is its turn; the state, (1, state_size), that the one before has left to this
        version, or why there is none: "version", for another version left one; "unknown"."""

    def go_on(self) -> Turn | None:
        """Ask; where that is answered at once, the session's next turn."""


@dataclass(slots=True)
class _Left:
    """What the last decision left: the state, the version's digest, and when that was."""

    state: States
    digest: str
    at: float


@dataclass(slots=True)
class _UnderWay:
    left: _Left | None
    waiting: deque[Turn] = field(default_factory=deque)


class Sessions:
    """States of all sessions of all recurrent policies, for any thread.

    A state is good for the version whose network left it, and for no other. Beyond a limit the
    session that has been idle for longest is forgotten.
    """

    def __init__(self, limits: SessionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._idle: OrderedDict[SessionKey, _Left] = OrderedDict()  # the longest idle first
        self._bytes = 0
        self._under_way: dict[SessionKey, _UnderWay] = {}

    def enter(self, turn: Turn) -> bool:
        """Begin a turn, or have it wait for those before it; whether it has begun.

        Raises:
            ResourceExhausted: when too many wait.
        """
        with self._lock:
            self._forget_idle()
            under_way = self._under_way.get(turn.key)
            if under_way is None:
                left = self._idle.pop(turn.key, None)
                if left is not None:
                    self._count(turn.key, left, -1)
                self._under_way[turn.key] = _UnderWay(left)
                self._begin(turn, left)
                return True
            if len(under_way.waiting) >= WAITING:
                raise ResourceExhausted(
                    f"{WAITING} decisions of this session are waiting; wait for answers"
                )
            under_way.waiting.append(turn)
            return False

    def leave(self, turn: Turn, state: States | None) -> Turn | None:
        """End a turn with the state that it left; None: it failed, and changed nothing.

        Returns:
            The session's next turn, which has begun.
        """
        with self._lock:
            under_way = self._under_way[turn.key]
            if state is not None:
                under_way.left = _Left(state, turn.digest, self._clock())
            if under_way.waiting:
                following = under_way.waiting.popleft()
                self._begin(following, under_way.left)
                return following
            del self._under_way[turn.key]
            if under_way.left is not None:
                self._keep(turn.key, under_way.left)
            return None

    def __len__(self) -> int:
        """Number of sessions of which something is remembered and nothing is under way."""
        return len(self._idle)

    @staticmethod
    def _begin(turn: Turn, left: _Left | None) -> None:
        if left is not None and left.digest == turn.digest:
            turn.begin(left.state, "")
        else:
            turn.begin(None, "unknown" if left is None else "version")

    def _keep(self, key: SessionKey, left: _Left) -> None:
        self._idle[key] = left
        self._count(key, left, 1)
        while len(self._idle) > self._limits.most or self._bytes > self._limits.most_bytes:
            self._forget(metrics.SESSIONS_EVICTED)

    def _forget_idle(self) -> None:
        since = self._clock() - self._limits.idle_s
        while self._idle and next(iter(self._idle.values())).at < since:
            self._forget(metrics.SESSIONS_EXPIRED)

    def _forget(self, counter: Counter) -> None:
        key, left = self._idle.popitem(last=False)
        self._count(key, left, -1)
        counter.labels(key.policy).inc()

    def _count(self, key: SessionKey, left: _Left, sessions: int) -> None:
        self._bytes += sessions * (left.state.nbytes + OVERHEAD_BYTES)
        metrics.SESSIONS.labels(key.policy).inc(sessions)
