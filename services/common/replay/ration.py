"""The learner's side of samples per insert: a batch waits until enough has been appended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from services.common.errors import ReplayUnavailable
from services.common.replay.answers import Tail
from services.common.replay.limiter import Limits

TIMEOUT_S = 300.0
POLL_S = 0.02


class Ration:
    """What may be sampled of a replay's shards now.

    Args:
        sampled: rows sampled of each shard that the replay has not been told of.
    """

    def __init__(self, name: str, limits: Limits, sampled: Sequence[int]) -> None:
        self._name, self._limits, self._sampled = name, limits, sampled
        self._counts = [(0, 0)] * len(sampled)

    def heard(self, shard: int, tail: Tail) -> None:
        """The replay said how much was appended and sampled by all."""
        self._counts[shard] = (tail.inserted, tail.sampled)

    @property
    def left(self) -> int:
        """How many more rows may be sampled."""
        counts = zip(self._counts, self._sampled, strict=True)
        return sum(self._limits.samples_left(i, s + own) for (i, s), own in counts)

    def wait(self, batch_size: int, sync: Callable[[], object]) -> None:
        """Return when a batch may be sampled.

        Raises:
            ReplayUnavailable: when producers have not appended enough in time.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while self.left < batch_size:
            sync()
            if self.left >= batch_size:
                return
            if time.monotonic() > deadline:
                inserted = sum(count for count, _ in self._counts)
                raise ReplayUnavailable(
                    f"replay {self._name}: its limits allow {self.left} samples after {inserted} "
                    f"steps, a batch is {batch_size}, and no producer appended enough within "
                    f"{TIMEOUT_S:.0f} s; check that one is running, or lower min_size"
                )
            time.sleep(POLL_S)
