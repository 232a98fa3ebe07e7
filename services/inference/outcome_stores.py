"""Where the decisions of each policy are kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from services.common.errors import PreconditionFailed
from services.common.outcomes import Feeder, WaitingDecisions
from services.common.replay import ReplaySchema, connect
from services.common.replay.connection import Client, connect_ahead


@dataclass(frozen=True)
class OutcomeLimits:
    """How much is kept of each policy, and how long.

    wait_s: for which a decision waits for its outcome.
    patience_s: for which a call waits for Redis.
    waiting_bytes, replay_bytes, replay_rows: of decisions, and of the replay.
    """

    wait_s: float = 600.0
    patience_s: float = 0.1
    waiting_bytes: int = 256 << 20
    replay_bytes: int = 256 << 20
    replay_rows: int = 1_000_000


class OutcomeStores:
    """Opens stores when they are first needed; Redis need not be there before.

    For several threads. What is opened blocks until Redis has answered.
    """

    def __init__(self, redis_url: str, limits: OutcomeLimits) -> None:
        self.limits = limits
        self._url = redis_url
        self._schemas: dict[str, ReplaySchema] = {}
        self._waiting: dict[str, WaitingDecisions] = {}
        self._feeders: dict[str, Feeder] = {}

    def declare(self, policy: str, schema: ReplaySchema) -> None:
        """Say what rows of a policy are.

        Raises:
            PreconditionFailed: when they were something else before.
        """
        known = self._schemas.setdefault(policy, schema)
        if known is not schema and known != schema:
            raise PreconditionFailed(
                f"decisions of policy {policy!r} are kept as {known.dtype}, those of this version "
                f"are {schema.dtype}"
            )

    def connect_ahead(self) -> None:
        """Have connections ready for who is not to wait for them: the threads that keep decisions
        and outcomes.

        Raises:
            ReplayUnavailable: when Redis does not answer.
        """
        connect_ahead(self._hasty, 2)

    @property
    def policies(self) -> list[str]:
        """All that were declared."""
        return list(self._schemas)

    def waiting(self, policy: str) -> WaitingDecisions:
        """The decisions of a policy.

        Raises:
            ReplayUnavailable: when a cluster does not answer.
        """
        if policy not in self._waiting:
            self._waiting[policy] = WaitingDecisions(
                self._hasty,
                policy,
                wait_s=self.limits.wait_s,
                max_bytes=self.limits.waiting_bytes,
                row_bytes=self._schemas[policy].row_bytes,
            )
        return self._waiting[policy]

    def feeder(self, policy: str) -> Feeder:
        """What feeds a policy's replay; for one thread.

        Raises:
            ReplayUnavailable: when a cluster does not answer.
        """
        if policy not in self._feeders:
            self._feeders[policy] = Feeder(
                self._patient,
                policy,
                self._schemas[policy],
                max_bytes=self.limits.replay_bytes,
                max_rows=self.limits.replay_rows,
            )
        return self._feeders[policy]

    @cached_property
    def _hasty(self) -> Client:
        return connect(self._url, self.limits.patience_s)

    @cached_property
    def _patient(self) -> Client:
        return connect(self._url)
