"""A line of the log for some of the calls, and for those that fail.

{"event": "call", "method": "/tutelage.v1.PolicyService/Act", "status": "OK", "ms": 0.31,
 "peer": "ipv4:10.0.0.7:51200", "roles": ["act"], "policy": "cartpole", "version": 3, …}
"""

from __future__ import annotations

import random
import time
from typing import Any

import structlog
from google.rpc import code_pb2

from services.common.gathering import Gatherer
from services.common.server.access import Access
from services.common.server.watching import WatchedCall

log = structlog.get_logger()

WAITING = 1024
MOST_ERROR_CHARACTERS = 300


class AccessLog:
    """Writes lines in a thread of its own, so that no reply waits for the log; see Watcher.

    Args:
        rate: of the calls that have a line; it is said in each.
        errors_a_second: calls that fail and have one whatever the rate; those beyond are counted
            in the next such line.
        access: tells roles; tokens are written nowhere.
    """

    def __init__(self, rate: float, errors_a_second: int, access: Access) -> None:
        self._rate, self._errors, self._access = rate, Allowance(errors_a_second), access
        self._writing = Gatherer[dict[str, Any]]("access-log", self._write, WAITING)

    def began(self, call: WatchedCall) -> None:
        """See Watcher."""

    def ended(self, call: WatchedCall, code: int, error: Exception | None) -> None:
        """See Watcher."""
        sampled = random.random() < self._rate
        if sampled:
            self._add(call, code, error, {"rate": self._rate})
        elif error is not None and (left_out := self._errors.take()) is not None:
            self._add(call, code, error, {"left_out": left_out} if left_out else {})

    def close(self, timeout_s: float) -> None:
        """Write what has come, and stop."""
        self._writing.close(timeout_s)

    def _add(
        self, call: WatchedCall, code: int, error: Exception | None, beside: dict[str, Any]
    ) -> None:
        facts: dict[str, Any] = {
            "method": call.method,
            "status": code_pb2.Code.Name(code),
            "ms": round((time.monotonic() - call.arrived) * 1e3, 3),
            "peer": call.peer,
            **call.notes,
            **beside,
        }
        if roles := self._access.roles(call):
            facts["roles"] = sorted(roles)
        if error is not None:
            facts["error"] = type(error).__name__
            facts["message"] = str(error)[:MOST_ERROR_CHARACTERS]
        self._writing.add(facts)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        for facts in lines:
            (log.warning if "error" in facts else log.info)("call", **facts)


class Allowance:
    """So many in each second."""

    def __init__(self, a_second: int) -> None:
        self._a_second = a_second
        self._second, self._taken, self._left_out = 0, 0, 0

    def take(self) -> int | None:
        """None where there are no more in this second; else how many were left out before."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._taken = second, 0
        if self._taken >= self._a_second:
            self._left_out += 1
            return None
        self._taken += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
