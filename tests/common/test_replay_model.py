"""Producers, store and mirror against a list in memory, in every order hypothesis thinks of."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass, field

import numpy as np
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replay_rig import SCHEMA, make_rows

from services.common.errors import ReplayUnavailable
from services.common.replay import ReplayMirror, ReplayProducer, ReplayStore
from services.common.replay.schema import Rows
from services.common.replay.successors import NONE

CAPACITY = 13
EPISODE_STEPS = 9


class Flaky(ReplayStore):
    """Appends, and then may lose the reply."""

    lose_reply = False

    def append(self, producer: str, sequence: int, rows: bytes) -> tuple[int, int, int]:
        answer = super().append(producer, sequence, rows)
        if self.lose_reply:
            self.lose_reply = False
            raise ReplayUnavailable("the reply was lost")
        return answer


@dataclass
class Actor:
    """Steps two environments in turn; each episode has EPISODE_STEPS steps."""

    producer: ReplayProducer
    number: int
    taken: int = 0
    episodes: list[int] = field(default_factory=lambda: [0, 0])

    def rows(self, count: int) -> Rows:
        """The next `count` rows; episode ids are different for each actor and environment."""
        return np.concatenate([self._row() for _ in range(count)])

    def _row(self) -> Rows:
        environment, turn = self.taken % 2, self.taken // 2
        self.taken += 1
        episode, step = divmod(turn, EPISODE_STEPS)
        episode_id = 1000 * self.number + 100 * environment + episode
        last = EPISODE_STEPS - 1
        ends = {"terminated": last} if environment else {"truncated": last}
        return make_rows(episode_id, [step], **ends)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Things that happen: (what, which actor, how many rows)."""
    kinds = st.sampled_from(["append", "append", "append", "lose reply", "sync"])
    event = st.tuples(kinds, st.integers(0, 2), st.integers(1, CAPACITY + 4))
    return draw(st.lists(event, min_size=1, max_size=25))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(events=histories())
def test_the_mirror_holds_what_was_appended(
    client: redis.Redis, events: list[tuple[str, int, int]]
) -> None:
    store = Flaky(client, f"model-{uuid.uuid4().hex}", SCHEMA, CAPACITY)
    actors = [Actor(ReplayProducer(store), number) for number in range(3)]
    copy, everything = ReplayMirror(store), SCHEMA.empty(0)
    for what, who, count in events:
        if what == "sync":
            copy.sync()
            continue
        rows = actors[who].rows(count)
        store.lose_reply = what == "lose reply"
        if store.lose_reply:
            with contextlib.suppress(ReplayUnavailable):
                actors[who].producer.append(rows)
        head = actors[who].producer.append(rows)
        everything = np.concatenate([everything, rows])
        assert head == len(everything)
    copy.sync()
    _check(copy, everything)
    store.remove()


def _check(copy: ReplayMirror, everything: Rows) -> None:
    """The ring holds the newest rows that it was there for, and each leads to the next step."""
    assert copy.head == len(everything)
    assert copy.size == min(len(everything), CAPACITY)
    newest = range(copy.head - copy.size, copy.head)
    ring, next_slot = copy._rows, copy._successors.next_slot
    where = {_key(everything[i]): i % CAPACITY for i in newest}
    for i in newest:
        np.testing.assert_array_equal(ring[i % CAPACITY], everything[i])
        row = everything[i]
        over = bool(row["terminated"] or row["truncated"])
        expected = NONE if over else where.get((_key(row)[0], _key(row)[1] + 1), NONE)
        assert next_slot[i % CAPACITY] == expected


def _key(row: np.void) -> tuple[int, int]:
    return int(row["episode_id"]), int(row["step"])
