from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from services.feedback.pairs import Candidate, choose, due
from services.feedback.schema import Choice, Split
from services.feedback.segments import split_of
from services.feedback.standings import ratings


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


def test_equals_are_compared_with_equals() -> None:
    ranked = [Candidate(f"s{i}", f"e{i}", 1.0, 3, rating=float(i // 2)) for i in range(12)]
    generator = random.Random(4)
    for _ in range(100):
        chosen = choose(ranked, set(), generator)
        assert chosen is not None
        one, two = (int(segment[1:]) for segment in chosen)
        assert one // 2 == two // 2


def test_what_won_is_shown_more_often_and_what_lost_less() -> None:
    # Close in rating to nobody, so that each is drawn by its turn.
    rated = [Candidate(f"{r:+.0f}{i}", f"{r}{i}", 1.0, 0, r) for r in (2, 0, -2) for i in range(2)]
    generator, uses, seen = random.Random(5), Counter[str](), Counter[str]()
    for _ in range(600):
        now = [replace(c, uses=uses[c.segment_id]) for c in rated]
        chosen = choose(now, set(), generator)
        assert chosen is not None
        uses.update(chosen)
        seen.update(segment[:2] for segment in chosen)
    assert 2 < seen["+2"] / seen["+0"] < 4
    assert 2 < seen["+0"] / seen["-2"] < 4


def test_a_rating_moves_by_how_much_a_judgement_surprises() -> None:
    won = ratings([("a", "b", Choice.LEFT)])
    assert won == {"a": 0.5, "b": -0.5}
    again = ratings([("a", "b", Choice.LEFT), ("b", "a", Choice.RIGHT)])
    expected = 0.5 + 1 - 1 / (1 + math.exp(-1))
    assert again == pytest.approx({"a": expected, "b": -expected})
    assert ratings([("a", "b", Choice.TIE), ("a", "b", Choice.SKIP)]) == {"a": 0.0, "b": 0.0}


def test_ratings_come_to_the_order_that_is_judged_by() -> None:
    generator = random.Random(6)
    judged = []
    for _ in range(2000):
        one, two = generator.sample(range(10), 2)
        judged.append((str(one), str(two), Choice.LEFT if one > two else Choice.RIGHT))
    rated = ratings(judged)
    assert sorted(rated, key=rated.__getitem__) == [str(i) for i in range(10)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_a_share_of_the_pairs_is_held_out_from_the_first_on(share: float) -> None:
    shown: Counter[str] = Counter()
    for number in range(1, 101):
        shown[due(shown, share)] += 1
        assert shown[Split.HELD_OUT] == math.floor(share * number)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_the_split_keeps_its_share_for_few_episodes_too(share: float) -> None:
    for task in ("cartpole", "acrobot", "taxi"):
        sides: Counter[str] = Counter()
        for number in range(200):
            sides[split_of(task, f"episode-{number}", share, sides)] += 1
            assert abs(sides[Split.HELD_OUT] - share * (number + 1)) < 1


def test_the_split_is_the_same_every_time_and_differs_by_task() -> None:
    def sides(policy: str) -> list[Split]:
        counted: Counter[str] = Counter()
        drawn = []
        for number in range(64):
            drawn.append(split_of(policy, f"e{number}", 0.5, counted))
            counted[drawn[-1]] += 1
        return drawn

    assert sides("cartpole") == sides("cartpole")
    assert sides("cartpole") != sides("acrobot")
