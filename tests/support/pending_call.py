"""A call as a transport brings it, for tests of what handles it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from services.common.server.calls import Reply


class PendingCall:
    """Keeps its reply, and can be left by its caller."""

    def __init__(
        self, content: bytes = b"", method: str = "/tutelage.v1.PolicyService/Act"
    ) -> None:
        self.method = method
        self.metadata: Sequence[tuple[str, str | bytes]] = ()
        self.peer = "ipv4:127.0.0.1:1"
        self.content = content
        self.deadline = math.inf
        self.arrived = time.monotonic()
        self.gone = False
        self._answered = threading.Event()
        self._reply: Reply | None = None

    def cancelled(self) -> bool:
        return self.gone

    def answer(self, reply: Reply) -> None:
        assert not self._answered.is_set()
        self._reply = reply
        self._answered.set()

    def is_answered(self) -> bool:
        return self._answered.is_set()

    def wait(self) -> Reply:
        """The reply, once there is one."""
        assert self._answered.wait(20)
        assert self._reply is not None
        return self._reply
