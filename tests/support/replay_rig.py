"""Rows of a small replay, made by hand, for tests of what stores and samples them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import redis

from services.common.errors import ReplayUnavailable
from services.common.replay.answers import Appended
from services.common.replay.flight import Flight
from services.common.replay.fragments import assemble
from services.common.replay.schema import LEAD, STEP, ReplaySchema, Rows
from services.common.replay.shard import ReplayShard

SCHEMA = ReplaySchema.transitions((1,), "float32")


def make_steps(
    episode: int,
    steps: Sequence[int],
    *,
    terminated: int | None = None,
    truncated: int | None = None,
    schema: ReplaySchema = SCHEMA,
) -> tuple[Rows, Rows]:
    """Steps of one episode, and the states they reached.

    In step t of episode e, observation 100·e + t is followed by 100·e + t + 1, the reward is
    t + 1, and the action t mod 2. The steps `terminated` and `truncated` are such.
    """
    rows, reached = schema.empty(len(steps)), schema.empty(len(steps))
    rows["step"] = steps
    rows["episode_id"] = episode
    rows["observation"] = make_states(schema, episode, steps)
    reached["observation"] = make_states(schema, episode, np.array(steps, dtype=np.int64) + 1)
    rows["reward"] = np.array(steps) + 1
    rows["action"] = np.array(steps) % 2
    rows["terminated"] = [step == terminated for step in steps]
    rows["truncated"] = [step == truncated for step in steps]
    return rows, reached


def make_states(schema: ReplaySchema, episode: int, steps: Sequence[int] | np.ndarray) -> Rows:
    """The observations before these steps, (n, *shape), all elements the same."""
    values = 100 * episode + np.array(steps, dtype=np.int64)
    shape = schema.leaves[0].shape
    return np.broadcast_to(values.reshape(-1, *[1] * len(shape)), (len(values), *shape))


def make_rows(
    episode: int,
    steps: Sequence[int],
    *,
    terminated: int | None = None,
    truncated: int | None = None,
    schema: ReplaySchema = SCHEMA,
) -> Rows:
    """One fragment: leads where the schema needs them, `make_steps`, and a closing row.

    An end is the last step, or there is a fragment more.
    """
    rows, reached = make_steps(
        episode, steps, terminated=terminated, truncated=truncated, schema=schema
    )
    leads = []
    if schema.history and steps[0]:
        before = range(max(0, steps[0] - schema.history), steps[0])
        leads = [(0, make_steps(episode, before, schema=schema)[0])]
    return assemble(schema, rows, reached, np.zeros(len(rows), dtype=np.int64), leads)


def steps_of(rows: Rows) -> Rows:
    """The step rows alone."""
    return rows[rows["kind"] == STEP]


def without_leads(rows: Rows) -> Rows:
    """Step rows and closing rows."""
    return rows[rows["kind"] != LEAD]


def until_written(url: str) -> None:
    """Return once all that was done so far is in the server's append-only file.

    With `everysec` what a command did may wait for as long as the disk is busy with earlier
    commands, whose answers are not held back by that.
    """
    with redis.Redis.from_url(url, single_connection_client=True) as client:
        client.set("written", 1)
        assert client.execute_command("WAITAOF", 1, 0, 10_000)[0] == 1


class LostReply:
    """An answer on its way that never comes."""

    def land(self) -> None:
        """Nothing.

        Raises:
            TimeoutError: always.
        """
        raise redis.TimeoutError("the reply was lost")


@contextmanager
def losing_replies(shard: ReplayShard, times: int = 1) -> Iterator[None]:
    """Appends, and then loses the reply, so many times."""
    append, begin, left = shard.append, shard.begin_append, [None] * times

    def appended(producer: str, sequence: int, data: bytes) -> Appended:
        answer = append(producer, sequence, data)
        if left:
            left.pop()
            raise ReplayUnavailable("the reply was lost")
        return answer

    def begun(producer: str, sequence: int, data: bytes) -> Flight | LostReply | None:
        flight = begin(producer, sequence, data)
        if flight is None or not left:
            return flight
        left.pop()
        flight.land()
        return LostReply()

    with patch.multiple(shard, append=appended, begin_append=begun):
        yield
