"""Steps of lanes, cut anywhere, become fragments that hold each state once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_rig import SCHEMA, make_rows, make_steps

from services.common.replay.fragments import FragmentBuilder
from services.common.replay.schema import CLOSING, LEAD, STEP, ReplaySchema, Rows

STACKED = ReplaySchema.transitions((1,), "float32", stack=3)


class Lanes:
    """Two lanes whose episodes end where they are told to, each followed by a reset."""

    def __init__(self, schema: ReplaySchema) -> None:
        self.builder = FragmentBuilder(schema, 2)
        self._schema = schema
        self._step, self._episode, self._reset = [0, 0], [1, 2], [False, False]

    def step(self, ends: tuple[str, str]) -> None:
        taken = [self._one(lane, ends[lane]) for lane in range(2)]
        rows, reached, live = zip(*taken, strict=True)
        self.builder.add(np.concatenate(rows), np.concatenate(reached), np.array(live))

    def _one(self, lane: int, end: str) -> tuple[Rows, Rows, bool]:
        step, episode = self._step[lane], self._episode[lane]
        if self._reset[lane]:
            self._reset[lane] = False
            return self._schema.empty(1), self._schema.empty(1), False
        ends = {end: step} if end else {}
        self._step[lane] += 1
        if end:
            self._step[lane], self._reset[lane] = 0, True
            self._episode[lane] += 2
        return (*make_steps(episode, [step], schema=self._schema, **ends), True)


def states(rows: Rows) -> list[tuple[int, float]]:
    return list(zip(rows["kind"].tolist(), rows["observation"][:, 0].tolist(), strict=True))


def test_an_episode_cut_in_two() -> None:
    lanes = Lanes(SCHEMA)
    for _ in range(2):
        lanes.step(("", ""))
    assert lanes.builder.steps == 4
    # lane by lane, each closed by the state it reached
    assert states(lanes.builder.take()) == [
        (STEP, 100), (STEP, 101), (CLOSING, 102), (STEP, 200), (STEP, 201), (CLOSING, 202)
    ]  # fmt: skip
    lanes.step(("terminated", ""))
    rows = lanes.builder.take()
    assert states(rows) == [(STEP, 102), (CLOSING, 103), (STEP, 202), (CLOSING, 203)]
    assert rows["step"].tolist() == [2, 3, 2, 3]
    assert rows["episode_id"].tolist() == [1, 1, 2, 2]
    assert rows["terminated"].tolist() == [True, False, False, False]
    assert rows["reward"].tolist() == [3, 0, 3, 0]


def test_an_end_closes_and_a_reset_is_no_row() -> None:
    lanes = Lanes(SCHEMA)
    for end in ("truncated", "", ""):
        lanes.step((end, ""))
    assert states(lanes.builder.take())[:4] == [
        (STEP, 100), (CLOSING, 101), (STEP, 300), (CLOSING, 301)
    ]  # fmt: skip


def test_stacks_bring_the_states_before_them_along() -> None:
    lanes = Lanes(STACKED)
    found = []
    for _ in range(4):
        lanes.step(("", ""))
        found.append(lanes.builder.take())
    assert states(found[0])[:2] == [(STEP, 100), (CLOSING, 101)]
    assert states(found[1])[:3] == [(LEAD, 100), (STEP, 101), (CLOSING, 102)]
    assert states(found[2])[:4] == [(LEAD, 100), (LEAD, 101), (STEP, 102), (CLOSING, 103)]
    assert states(found[3])[:4] == [(LEAD, 101), (LEAD, 102), (STEP, 103), (CLOSING, 104)]
    assert found[3]["step"][:4].tolist() == [1, 2, 3, 4]


def test_nothing_added_is_nothing_to_take() -> None:
    builder = FragmentBuilder(SCHEMA, 2)
    assert len(builder.take()) == 0
    rows = SCHEMA.empty(2)
    builder.add(rows, rows, np.zeros(2, dtype=bool))
    assert (builder.steps, len(builder.take())) == (0, 0)


@pytest.mark.parametrize("schema", [SCHEMA, STACKED])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    history=st.lists(
        st.tuples(
            st.sampled_from(["", "", "", "terminated", "truncated"]),
            st.sampled_from(["", "", "truncated"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_wherever_chunks_are_cut_fragments_are_whole(
    schema: ReplaySchema, history: list[tuple[str, str, bool]]
) -> None:
    lanes, chunks = Lanes(schema), []
    for first, second, cut in history:
        lanes.step((first, second))
        if cut:
            chunks.append(lanes.builder.take())
    chunks.append(lanes.builder.take())
    rows = np.concatenate(chunks)
    fragments = np.split(rows, np.flatnonzero(rows["kind"] == CLOSING) + 1)
    assert len(fragments.pop()) == 0
    reached: dict[int, int] = {}
    for fragment in fragments:
        episode = int(fragment["episode_id"][0])
        steps = fragment["step"][fragment["kind"] == STEP]
        assert steps[0] == reached.get(episode, 0)
        reached[episode] = int(steps[-1]) + 1
        expected = make_rows(episode, steps.tolist(), schema=schema)
        for column in ("kind", "observation", "step", "episode_id", "reward", "action"):
            np.testing.assert_array_equal(fragment[column], expected[column])
