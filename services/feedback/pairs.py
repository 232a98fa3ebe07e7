"""Pairs: which two segments a labeler is shown next."""

from __future__ import annotations

import math
import random
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from services.common.errors import InvalidInput, NotFound, PreconditionFailed
from services.feedback import standings
from services.feedback.schema import Pair, Preference, Segment, Split, Undo

MAX_LABELER = 64
# The newest version's segments are shown this many times as often as the oldest's: they show
# more of what will be tuned, but old behaviour must stay in the comparison.
NEWEST_RATIO = 2.0


# One that won is shown this many times as often as one that neither won nor lost, and one that
# lost as much less: what people like is where a policy will be led, so there it must be known
# well, while how bad the bad is matters little.
BEST_RATIO = 3.0
# A segment that has been in this many more pairs makes up for a rating that is 1 closer.
PAIRS_FOR_A_RATING = 4


@dataclass(frozen=True)
class Candidate:
    """A segment that may be shown: how new its policy is in [0, 1], in how many pairs it was,
    and how it did in those, see `standings`."""

    segment_id: str
    episode_id: str
    newness: float
    uses: int
    rating: float = 0.0


def choose(
    candidates: Sequence[Candidate],
    seen: Collection[frozenset[str]],
    generator: random.Random,
) -> tuple[str, str] | None:
    """Two segments of different episodes: the one whose turn it is, and one that did about as
    well so far, as in a Swiss tournament. Which of two is better is mostly known already when
    one has won and the other lost; between equals it says most.

    Args:
        seen: unordered pairs that are not to be shown again.

    Returns:
        Left and right segment id, left and right at random, or None when nothing new is left.
    """
    turn = {c.segment_id: (c.uses + generator.random()) / _weight(c) for c in candidates}
    for first in sorted(candidates, key=lambda c: turn[c.segment_id]):
        rivals = [
            c
            for c in candidates
            if c.episode_id != first.episode_id
            and frozenset((first.segment_id, c.segment_id)) not in seen
        ]
        if rivals:
            second = min(rivals, key=lambda c: _mismatch(first, c, turn[c.segment_id]))
            pair = [first.segment_id, second.segment_id]
            generator.shuffle(pair)
            return pair[0], pair[1]
    return None


def _weight(candidate: Candidate) -> float:
    liked = min(max(math.exp(candidate.rating), 1 / BEST_RATIO), BEST_RATIO)
    return liked * (1 + (NEWEST_RATIO - 1) * candidate.newness)


def _mismatch(first: Candidate, second: Candidate, turn: float) -> float:
    return abs(first.rating - second.rating) + turn / PAIRS_FOR_A_RATING


def check_labeler(labeler: str) -> str:
    """Refuse a name that is empty, too long or unprintable.

    Raises:
        InvalidInput: with what was expected.
    """
    if not 1 <= len(labeler) <= MAX_LABELER or not labeler.isprintable() or not labeler.strip():
        raise InvalidInput(
            f"labeler {labeler[:80]!r} must be 1 to {MAX_LABELER} printable characters"
        )
    return labeler


def next_pair(session: Session, policy: str, labeler: str, held_out_share: float) -> Pair:
    """The oldest pair still open to the labeler, so that a reload shows it again; or a new one.

    Raises:
        PreconditionFailed: when there is nothing to compare, or nothing that is new to them.
    """
    return _oldest_open(session, policy, labeler) or _draw(session, policy, labeler, held_out_share)


def _oldest_open(session: Session, policy: str, labeler: str) -> Pair | None:
    query = select(Pair).where(Pair.policy == policy, Pair.labeler == labeler, is_open())
    return session.scalar(query.order_by(Pair.number).limit(1))


def is_open() -> exists:  # type: ignore[valid-type]
    """SQL: the pair has no standing judgement."""
    undone = exists().where(Undo.preference_id == Preference.preference_id)
    return ~exists().where(Preference.pair_id == Pair.pair_id, ~undone)


def _draw(session: Session, policy: str, labeler: str, held_out_share: float) -> Pair:
    sides = _candidates(session, policy)
    seen = _seen(session, policy, labeler)
    shown = _shown(session, policy)
    # By what is stored and not by chance: the same segments and labels give the same pairs.
    generator = random.Random(f"{policy}\0{labeler}\0{shown.total()}")
    preferred = due(shown, held_out_share)
    for split in sorted(Split, key=lambda split: split != preferred):
        chosen = choose(sides[split], seen, generator)
        if chosen is not None:
            return _serve(session, policy, labeler, split, *chosen)
    if seen:
        raise PreconditionFailed(
            f"{labeler!r} has been shown every pair of {policy!r}; record more segments"
        )
    count = len(sides[Split.TRAIN]) + len(sides[Split.HELD_OUT])
    raise PreconditionFailed(
        f"{f'policy {policy!r}' if policy else 'the service'} has {count} segments and no two "
        "that can be compared: a pair needs different episodes on one side of the train/held-out "
        "split; record more segments"
    )


def due(shown: Counter[str], held_out_share: float) -> Split:
    """The side the next pair should be of, by count: the share holds for a few pairs too.

    Args:
        shown: pairs of the policy on either side so far.
    """
    wanted = math.floor(held_out_share * (shown.total() + 1))
    return Split.HELD_OUT if shown[Split.HELD_OUT] < wanted else Split.TRAIN


def _shown(session: Session, policy: str) -> Counter[str]:
    counted = select(Pair.split, func.count()).where(Pair.policy == policy)
    return Counter(dict(session.execute(counted.group_by(Pair.split)).all()))


def _candidates(session: Session, policy: str) -> dict[str, list[Candidate]]:
    uses: Counter[str] = Counter()
    for column in (Pair.left_segment_id, Pair.right_segment_id):
        counted = select(column, func.count()).where(Pair.policy == policy).group_by(column)
        uses.update(dict(session.execute(counted).all()))
    rows = session.execute(
        select(Segment.segment_id, Segment.episode_id, Segment.policy_version, Segment.split)
        .where(Segment.policy == policy)
        .order_by(Segment.segment_id)
    ).all()
    newest = max((row.policy_version for row in rows), default=0) or 1
    rating = standings.ratings(_judged(session, policy))
    sides: dict[str, list[Candidate]] = {split: [] for split in Split}
    for row in rows:
        # What was never published is what is being tuned: newer than all that was.
        newness = row.policy_version / newest or 1.0
        sides[row.split].append(
            Candidate(
                row.segment_id,
                row.episode_id,
                newness,
                uses[row.segment_id],
                rating.get(row.segment_id, 0.0),
            )
        )
    return sides


def _judged(session: Session, policy: str) -> list[tuple[str, str, str]]:
    undone = exists().where(Undo.preference_id == Preference.preference_id)
    query = (
        select(Pair.left_segment_id, Pair.right_segment_id, Preference.choice)
        .join(Preference, Preference.pair_id == Pair.pair_id)
        .where(Preference.policy == policy, ~undone)
        .order_by(Preference.number)
    )
    return [(left, right, choice) for left, right, choice in session.execute(query)]


def _seen(session: Session, policy: str, labeler: str) -> set[frozenset[str]]:
    query = select(Pair.low_segment_id, Pair.high_segment_id).where(
        Pair.policy == policy, Pair.labeler == labeler
    )
    return {frozenset(row) for row in session.execute(query)}


def _serve(
    session: Session, policy: str, labeler: str, split: Split, left: str, right: str
) -> Pair:
    low, high = sorted((left, right))
    pair = Pair(
        pair_id=uuid.uuid4().hex,
        policy=policy,
        labeler=labeler,
        left_segment_id=left,
        right_segment_id=right,
        low_segment_id=low,
        high_segment_id=high,
        split=split,
    )
    session.add(pair)
    return pair


def get(session: Session, pair_id: str, labeler: str) -> Pair:
    """A pair that was shown to a labeler.

    Raises:
        NotFound: when there is none, or it was shown to somebody else.
    """
    pair = session.scalar(select(Pair).where(Pair.pair_id == pair_id, Pair.labeler == labeler))
    if pair is None:
        raise NotFound(f"no pair {pair_id!r} was shown to {labeler!r}; get one with NextPair")
    return pair
