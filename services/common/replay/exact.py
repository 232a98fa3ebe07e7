"""A mirror that can go back to where it was, so that a run does all of it again the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.errors import PreconditionFailed
from services.common.replay.local import Sampling
from services.common.replay.mirror import MirrorReplay
from services.common.replay.schema import Rows
from services.common.replay.store import ReplayStore

Arrays = Mapping[str, npt.NDArray[Any]]


class ExactMirror(MirrorReplay):
    """A mirror of a replay that it alone appends to, in step with it: what was appended can be
    sampled at once.

    `snapshot` says where it stands. `go_back` cuts the replay back to that in Redis and reads
    what remains: rows, counts and priorities are then what they were, bit for bit. Rows appended
    since have taken the room of older ones. So the replay has more room than the newest `window`
    rows, which are sampled: by as many as may be appended between two snapshots.

    Priorities are in the snapshot, and not kept in Redis as they change.

    Raises:
        PreconditionFailed: when another one appends too.
    """

    def __init__(self, store: ReplayStore, sampling: Sampling, window: int) -> None:
        super().__init__(store, sampling, window=window)
        self._window = window

    def append(self, rows: Rows, timeout_s: float | None = None) -> int:
        """See `MirrorReplay.append`."""
        before = self._rings[self._writer().shard].head
        head = super().append(rows, timeout_s)
        if head != before + len(rows):
            raise PreconditionFailed(
                f"replay {self.name}: somebody else appends to it, and what that changes cannot "
                "be repeated"
            )
        return head

    def snapshot(self) -> dict[str, npt.NDArray[Any]]:
        """Where the replay stands, durable in Redis on return, if that keeps its data on disk.

        Raises:
            ReplayUnavailable: when Redis does not answer; call it again then.
        """
        self.sync()
        found: dict[str, npt.NDArray[Any]] = {}
        for i, shard in enumerate(self._store.shards):
            tail = shard.tail(self._rings[i].head, 0, self._sampled[i])
            self._sampled[i] = 0
            shard.make_durable(tail.head)
            found[f"{i}.at"] = np.array([shard.made_at, tail.head, tail.inserted, tail.sampled])
            if self._prioritized is not None:
                kept = self._prioritized.arrays(i)
                found |= {f"{i}.{name}": array for name, array in kept.items()}
        return found

    def go_back(self, snapshot: Arrays | None) -> None:
        """Be where the replay stood at a snapshot; None: where it holds nothing.

        Raises:
            ReplayUnavailable: when Redis does not answer; call it again then.
            ReplayDataLost: when what was there then is no longer all there.
        """
        for i, shard in enumerate(self._store.shards):
            at = [shard.made_at, 0, 0, 0] if snapshot is None else snapshot[f"{i}.at"].tolist()
            made_at, head, inserted, sampled = at
            needed = min(head, self._window)
            shard.cut_back(made_at, head, inserted, sampled, needed)
            self._rings[i].begin_at(head - needed)
            self._epochs[i] = None
        self.sync()
        if self._prioritized is not None and snapshot is not None:
            for i in range(len(self._rings)):
                self._prioritized.put_back(i, _of(snapshot, i))

    def _keep_priorities(self) -> None:
        """See the class."""


def _of(snapshot: Arrays, shard: int) -> dict[str, npt.NDArray[Any]]:
    prefix = f"{shard}."
    return {n.removeprefix(prefix): a for n, a in snapshot.items() if n.startswith(prefix)}
