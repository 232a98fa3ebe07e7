from __future__ import annotations

import random
from collections import Counter

import pytest

from services.feedback.pairs import Candidate, choose
from services.feedback.schema import Split
from services.feedback.segments import split_of


def candidates(count: int, *, episodes: int = 1000, uses: int = 0) -> list[Candidate]:
    return [Candidate(f"s{i}", f"e{i % episodes}", newness=1.0, uses=uses) for i in range(count)]


def test_both_orders_come_up_equally_often() -> None:
    generator = random.Random(0)
    drawn = Counter(choose(candidates(2), set(), generator) for _ in range(400))
    assert set(drawn) == {("s0", "s1"), ("s1", "s0")}
    assert 150 < drawn["s0", "s1"] < 250


def test_segments_of_one_episode_are_never_compared() -> None:
    generator = random.Random(0)
    assert choose(candidates(5, episodes=1), set(), generator) is None
    chosen = choose([*candidates(5, episodes=1), Candidate("x", "other", 1, 9)], set(), generator)
    assert chosen is not None
    assert "x" in chosen


def test_what_was_seen_is_not_shown_again_and_everything_is_shown_once() -> None:
    generator = random.Random(1)
    seen: set[frozenset[str]] = set()
    while (chosen := choose(candidates(7), seen, generator)) is not None:
        assert frozenset(chosen) not in seen
        seen.add(frozenset(chosen))
    assert len(seen) == 7 * 6 // 2


def test_the_least_used_come_first() -> None:
    fresh = [Candidate(name, name, newness=0.0, uses=0) for name in ("a", "b")]
    chosen = choose([*candidates(50, uses=3), *fresh], set(), random.Random(2))
    assert chosen is not None
    assert set(chosen) == {"a", "b"}


def test_newer_versions_are_preferred_slightly() -> None:
    both = [Candidate(f"new{i}", f"n{i}", 1.0, 0) for i in range(20)]
    both += [Candidate(f"old{i}", f"o{i}", 0.0, 0) for i in range(20)]
    generator = random.Random(3)
    drawn: Counter[str] = Counter()
    for _ in range(200):
        drawn.update(segment[:3] for segment in choose(both, set(), generator) or ())
    assert 1.5 < drawn["new"] / drawn["old"] < 2.7


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_the_split_keeps_its_share(share: float) -> None:
    sides = Counter(split_of("cartpole", f"episode-{i}", share) for i in range(2000))
    assert abs(sides[Split.HELD_OUT] / 2000 - share) < 0.03


def test_the_split_is_the_same_every_time_and_differs_by_task() -> None:
    def sides(policy: str) -> list[Split]:
        return [split_of(policy, f"e{i}", 0.5) for i in range(64)]

    assert sides("cartpole") == sides("cartpole")
    assert sides("cartpole") != sides("acrobot")
