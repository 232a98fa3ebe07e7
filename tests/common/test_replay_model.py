"""Sampling against a plain list, whatever comes in whatever order hypothesis thinks of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from replay_oracle import Actor, Oracle

from services.common.replay import MemoryReplay, Prioritized, Sampling, Transitions
from services.common.replay.samplers import NUMBER_BITS, Drawn
from services.common.replay.schema import Field, ReplaySchema, Rows

CAPACITY, DISCOUNT = 23, 0.5
ENDS = st.sampled_from(["", "", "", "", "terminated", "truncated"])
CHUNKS = st.lists(st.tuples(ENDS, ENDS), min_size=1, max_size=12)
ACTION = Field("action", "int32")
SCHEMAS = [
    ReplaySchema.transitions((1,), "float32"),
    ReplaySchema((Field("observation", "float32", (1,), 3, "first"),), ACTION),
    ReplaySchema((Field("observation", "float32", (1,), 4, "zero"),), ACTION),
]


class Doubled:
    """Twice the reward and a thousand a version."""

    version = 0

    def rewards(self, transitions: Transitions) -> np.ndarray:
        return 2 * transitions.reward + 1000 * self.version


class ReplayMachine(RuleBasedStateMachine):
    """Actors append; chunks may be lost with a restart and come again in another order."""

    @initialize(
        schema=st.sampled_from(SCHEMAS),
        n_step=st.integers(1, 4),
        prioritized=st.booleans(),
        relabel=st.booleans(),
    )
    def begin(self, schema: ReplaySchema, n_step: int, prioritized: bool, relabel: bool) -> None:
        self.relabel = Doubled() if relabel else None
        sampler: dict[str, Any] = {"sampler": Prioritized(alpha=0.5)} if prioritized else {}
        sampling = Sampling(
            np.random.default_rng(0),
            n_step=n_step,
            discount=DISCOUNT,
            relabel=self.relabel,
            **sampler,
        )
        self.n_step = n_step
        self.replay = MemoryReplay(schema, CAPACITY, sampling)
        self.oracle = Oracle(schema, CAPACITY)
        self.actors = [Actor(schema, number) for number in range(3)]
        self.starts: list[int] = []  # of the chunks
        self.priorities: dict[int, float] = {}
        self.maximum = 1.0
        self.generation = 0  # how often chunks were lost

    @rule(who=st.integers(0, 2), ends=CHUNKS)
    def append(self, who: int, ends: list[tuple[str, str]]) -> None:
        self._append(self.actors[who].chunk(ends))

    def _append(self, chunk: Rows) -> None:
        self.starts.append(self.oracle.head)
        self.oracle.append(chunk)
        assert self.replay.append(chunk) == self.oracle.head
        for number in range(self.starts[-1], self.oracle.head):
            self.priorities[number] = self.maximum

    @precondition(lambda self: self.starts)
    @rule(chunks=st.integers(1, 3), again=st.booleans())
    def lose_the_newest_chunks(self, chunks: int, again: bool) -> None:
        starts = self.starts[-chunks:]
        del self.starts[-chunks:]
        ends = [*starts[1:], self.oracle.head]
        lost = [self.oracle.rows[a:b] for a, b in zip(starts, ends, strict=True)]
        self.oracle.truncate(starts[0])
        self.replay._truncate(0, starts[0])
        self.generation += 1
        for rows in reversed(lost) if again else ():
            self._append(np.array(rows, dtype=self.oracle.schema.dtype))

    @precondition(lambda self: self.relabel is not None)
    @rule()
    def refit(self) -> None:
        self.relabel.version += 1

    @rule(data=st.data(), count=st.integers(1, 5), late=st.sampled_from([0, 0, 0, 1]))
    def update_priorities(self, data: st.DataObject, count: int, late: int) -> None:
        numbers = st.integers(-1, self.oracle.head + 2)
        index = data.draw(st.lists(numbers, min_size=count, max_size=count))
        errors = st.sampled_from([0, -2, 0.5, 7])
        given = data.draw(st.lists(errors, min_size=count, max_size=count))
        names = np.array(index) + ((self.generation - late) << NUMBER_BITS)
        self.replay.update_priorities(names, np.array(given, dtype=np.float32))
        possible = set() if late else set(self.oracle.sampleable())
        for number, priority in zip(index, given, strict=True):
            if number in possible:
                self.priorities[number] = abs(priority) + 1e-6
                self.maximum = max(self.maximum, abs(priority) + 1e-6)

    @rule()
    def check(self) -> None:
        ring, possible = self.replay._rings[0], self.oracle.sampleable()
        assert ring.steps.tolist() == possible
        assert (self.replay.size, self.replay.head) == (len(possible), self.oracle.head)
        if possible:
            self._check_transitions(possible)
            self._check_sequences(possible)
            self._check_priorities(possible)

    def _reward(self, number: int) -> float:
        reward = float(self.oracle.rows[number]["reward"])
        return reward if self.relabel is None else 2 * reward + 1000 * self.relabel.version

    def _check_transitions(self, possible: list[int]) -> None:
        part = self.replay._part(Drawn(0, np.array(possible)))
        batch = Transitions(self.oracle.schema, part.windows, part.reached, part.reward)
        for i, number in enumerate(possible):
            steps = self.oracle.steps_from(number, self.n_step)
            last = self.oracle.rows[steps[-1]]
            reward = sum(DISCOUNT**k * self._reward(step) for k, step in enumerate(steps))
            discount = 0 if last["terminated"] else DISCOUNT ** len(steps)
            assert batch.reward[i] == pytest.approx(reward)
            assert part.discount[i] == pytest.approx(discount)
            assert batch.action[i] == self.oracle.rows[number]["action"]
            assert batch.truncated[i] == last["truncated"]
            np.testing.assert_array_equal(batch.observation[i], self.oracle.observation(number))
            np.testing.assert_array_equal(
                batch.next_observation[i], self.oracle.observation(steps[-1], later=1)
            )

    def _check_sequences(self, possible: list[int]) -> None:
        batch = self.replay.sample_sequences(3, length=3, burn_in=2)
        assert len(batch) == 3
        for i, name in enumerate(batch.index.tolist()):
            number = name - (self.generation << NUMBER_BITS)
            assert number in possible
            steps = self.oracle.steps_from(number, 5)
            assert batch.mask[i].tolist() == [t < len(steps) for t in range(5)]
            for t, step in enumerate(steps):
                assert batch.reward[i, t] == pytest.approx(self._reward(step))
                ended = self.oracle.rows[step]["terminated"]
                assert batch.discount[i, t] == (0 if ended else DISCOUNT)
                np.testing.assert_array_equal(
                    batch.observation[i, t], self.oracle.observation(step)
                )
                np.testing.assert_array_equal(
                    batch.next_observation[i, t], self.oracle.observation(step, later=1)
                )

    def _check_priorities(self, possible: list[int]) -> None:
        sampler = self.replay._prioritized
        if sampler is None:
            return
        values = np.array([self.priorities[n] for n in possible]) ** 0.5
        tree = sampler.trees[0]
        leaves = tree.values[np.array(possible) % CAPACITY]
        np.testing.assert_allclose(leaves, values, rtol=1e-5)
        assert np.count_nonzero(tree.values) == len(possible)
        assert tree.total == pytest.approx(values.sum())
        assert tree.minimum == pytest.approx(values.min())

    def teardown(self) -> None:
        if hasattr(self, "oracle"):
            self.check()


ReplayMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, derandomize=True
)
test_whatever_happens_samples_are_what_was_appended = ReplayMachine.TestCase
