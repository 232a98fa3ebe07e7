"""Pairs: which two segments a labeler is shown next."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from services.common.errors import InvalidInput, NotFound, PreconditionFailed
from services.feedback.schema import Pair, Preference, Segment, Split, Undo

MAX_LABELER = 64
# The newest version's segments are shown this many times as often as the oldest's: they show
# more of what will be tuned, but old behaviour must stay in the comparison.
NEWEST_RATIO = 2.0


@dataclass(frozen=True)
class Candidate:
    """A segment that may be shown: how new its policy is in [0, 1], in how many pairs it was."""

    segment_id: str
    episode_id: str
    newness: float
    uses: int


def choose(
    candidates: Sequence[Candidate],
    seen: Collection[frozenset[str]],
    generator: random.Random,
) -> tuple[str, str] | None:
    """Two segments of different episodes, those used least first, left and right at random.

    Args:
        seen: unordered pairs that are not to be shown again.

    Returns:
        Left and right segment id, or None when nothing new is left.
    """
    turn = {
        c.segment_id: (c.uses + generator.random()) / (1 + (NEWEST_RATIO - 1) * c.newness)
        for c in candidates
    }
    ordered = sorted(candidates, key=lambda c: turn[c.segment_id])
    for i, first in enumerate(ordered):
        for second in ordered[i + 1 :]:
            pair = [first.segment_id, second.segment_id]
            if first.episode_id != second.episode_id and frozenset(pair) not in seen:
                generator.shuffle(pair)
                return pair[0], pair[1]
    return None


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


def next_pair(
    session: Session, policy: str, labeler: str, held_out_share: float, generator: random.Random
) -> Pair:
    """The oldest pair still open to the labeler, so that a reload shows it again; or a new one.

    Raises:
        PreconditionFailed: when there is nothing to compare, or nothing that is new to them.
    """
    pair = _oldest_open(session, policy, labeler)
    return pair or _draw(session, policy, labeler, held_out_share, generator)


def _oldest_open(session: Session, policy: str, labeler: str) -> Pair | None:
    query = select(Pair).where(Pair.policy == policy, Pair.labeler == labeler, is_open())
    return session.scalar(query.order_by(Pair.number).limit(1))


def is_open() -> exists:  # type: ignore[valid-type]
    """SQL: the pair has no standing judgement."""
    undone = exists().where(Undo.preference_id == Preference.preference_id)
    return ~exists().where(Preference.pair_id == Pair.pair_id, ~undone)


def _draw(
    session: Session, policy: str, labeler: str, held_out_share: float, generator: random.Random
) -> Pair:
    sides = _candidates(session, policy)
    seen = _seen(session, policy, labeler)
    preferred = Split.HELD_OUT if generator.random() < held_out_share else Split.TRAIN
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
    sides: dict[str, list[Candidate]] = {split: [] for split in Split}
    for row in rows:
        newness = row.policy_version / newest
        candidate = Candidate(row.segment_id, row.episode_id, newness, uses[row.segment_id])
        sides[row.split].append(candidate)
    return sides


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
