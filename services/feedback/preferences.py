"""Preferences: what people said, what they took back, and how much of it there is."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from services.common.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed
from services.feedback import pairs
from services.feedback.schema import Choice, Pair, Preference, Segment, Split, Undo

MAX_REQUEST_ID = 128
MAX_PAGE = 1000
DEFAULT_PAGE = 200
# A page ends early when its segments weigh more, so that a reply stays below the 4 MiB that
# gRPC clients take.
MAX_PAGE_BYTES = 2 << 20
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Judgement:
    """What a labeler says of a pair, checked on construction.

    Raises:
        InvalidInput: naming the field that does not fit, and what was expected.
    """

    pair_id: str
    labeler: str
    choice: Choice
    request_id: str = ""
    response_time_ms: int = 0

    def __post_init__(self) -> None:
        pairs.check_labeler(self.labeler)
        check_request_id(self.request_id)
        if not 0 <= self.response_time_ms <= _DAY_MS:
            raise InvalidInput(
                f"response_time_ms is {self.response_time_ms}, expected 0 to {_DAY_MS} (a day)"
            )


@dataclass(frozen=True)
class Page:
    """Preferences with their pairs, and the token of the page after; empty on the last."""

    preferences: Sequence[tuple[Preference, Pair]]
    next_token: str


@dataclass(frozen=True)
class Progress:
    """Counts of a task; `labels` by choice are of standing judgements."""

    policy: str
    segments: int
    labels: dict[Choice, int]
    held_out: int
    open_pairs: int
    by_labeler: int


def check_request_id(request_id: str) -> str:
    """Refuse a token that is too long.

    Raises:
        InvalidInput: with what was expected.
    """
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidInput(
            f"request_id has {len(request_id)} characters, expected at most {MAX_REQUEST_ID}"
        )
    return request_id


def submit(session: Session, judgement: Judgement) -> tuple[Preference, Pair, bool]:
    """Record a judgement once.

    Returns:
        The preference, its pair, and whether it was there already.

    Raises:
        NotFound: when no such pair was shown to the labeler.
        AlreadyExists: when the labeler chose otherwise before.
    """
    pair = pairs.get(session, judgement.pair_id, judgement.labeler)
    earlier = _of_request(session, judgement) or _standing(session, pair)
    if earlier is None:
        return _record(session, judgement, pair), pair, False
    if earlier.pair_id != pair.pair_id:
        raise AlreadyExists(
            f"request_id {judgement.request_id!r} was used for another pair; use a new one"
        )
    if earlier.choice != judgement.choice:
        raise AlreadyExists(
            f"{judgement.labeler!r} judged this pair before, as {earlier.choice!r}; "
            "undo that first to say otherwise"
        )
    return earlier, pair, True


def _of_request(session: Session, judgement: Judgement) -> Preference | None:
    if not judgement.request_id:
        return None
    return session.scalar(
        select(Preference).where(
            Preference.labeler == judgement.labeler, Preference.request_id == judgement.request_id
        )
    )


def _standing(session: Session, pair: Pair) -> Preference | None:
    query = select(Preference).where(Preference.pair_id == pair.pair_id, _stands())
    return session.scalar(query)


def _stands() -> exists:  # type: ignore[valid-type]
    return ~exists().where(Undo.preference_id == Preference.preference_id)


def _record(session: Session, judgement: Judgement, pair: Pair) -> Preference:
    # Counts undos, not judgements: one that another replica commits right now must collide
    # with this one instead of moving it to the next round.
    rounds = (
        select(func.count())
        .select_from(Undo)
        .join(Preference, Preference.preference_id == Undo.preference_id)
        .where(Preference.pair_id == pair.pair_id)
    )
    preference = Preference(
        preference_id=uuid.uuid4().hex,
        pair_id=pair.pair_id,
        round=session.scalar(rounds),
        policy=pair.policy,
        labeler=judgement.labeler,
        choice=judgement.choice,
        request_id=judgement.request_id or None,
        response_time_ms=judgement.response_time_ms,
    )
    session.add(preference)
    session.flush()
    return preference


def undo(
    session: Session, policy: str, labeler: str, preference_id: str = "", request_id: str = ""
) -> tuple[Preference, Pair]:
    """Take a judgement back: the one named, or the labeler's newest standing one.

    Named or asked with the same request_id again, it is the same undo.

    Raises:
        NotFound: when the labeler gave no such preference.
        PreconditionFailed: when the labeler has nothing to take back.
    """
    earlier = _undo_of_request(session, labeler, request_id)
    if earlier is not None:
        return _with_pair(session, earlier)
    if preference_id:
        preference = _given(session, policy, labeler, preference_id)
    else:
        preference = _newest_standing(session, policy, labeler)
    undone = exists().where(Undo.preference_id == preference.preference_id)
    if not session.scalar(select(undone)):
        session.add(
            Undo(
                preference_id=preference.preference_id,
                labeler=labeler,
                request_id=request_id or None,
            )
        )
    return _with_pair(session, preference)


def _undo_of_request(session: Session, labeler: str, request_id: str) -> Preference | None:
    if not request_id:
        return None
    return session.scalar(
        select(Preference)
        .join(Undo, Undo.preference_id == Preference.preference_id)
        .where(Undo.labeler == labeler, Undo.request_id == request_id)
    )


def _given(session: Session, policy: str, labeler: str, preference_id: str) -> Preference:
    query = select(Preference).where(
        Preference.preference_id == preference_id,
        Preference.labeler == labeler,
        Preference.policy == policy,
    )
    preference = session.scalar(query)
    if preference is None:
        raise NotFound(f"no preference {preference_id!r} of {labeler!r} for {policy!r}")
    return preference


def _newest_standing(session: Session, policy: str, labeler: str) -> Preference:
    query = select(Preference).where(
        Preference.policy == policy, Preference.labeler == labeler, _stands()
    )
    preference = session.scalar(query.order_by(Preference.number.desc()).limit(1))
    if preference is None:
        raise PreconditionFailed(f"{labeler!r} has no judgement of {policy!r} to take back")
    return preference


def _with_pair(session: Session, preference: Preference) -> tuple[Preference, Pair]:
    return preference, session.scalars(select(Pair).where(Pair.pair_id == preference.pair_id)).one()


def page(
    session: Session, policy: str, labeler: str, page_size: int, token: str, *, weigh: bool
) -> Page:
    """Standing preferences in the order they were given, from where the token points.

    Args:
        labeler: only theirs; empty for everyone's.
        page_size: 1 to 1000; 0 for 200.
        weigh: end the page early when its segments would weigh too much for one reply.

    Raises:
        InvalidInput: when size or token is none.
    """
    size = page_size or DEFAULT_PAGE
    if not 1 <= size <= MAX_PAGE:
        raise InvalidInput(f"page_size is {page_size}, expected 1 to {MAX_PAGE}")
    query = (
        select(Preference, Pair)
        .join(Pair, Pair.pair_id == Preference.pair_id)
        .where(Preference.policy == policy, Preference.number > _position(token), _stands())
        .order_by(Preference.number)
        .limit(size + 1)
    )
    if labeler:
        query = query.where(Preference.labeler == labeler)
    rows = list(session.execute(query))
    kept = rows[:size]
    if weigh:
        kept = kept[: _that_fit(session, kept)]
    next_token = str(kept[-1][0].number) if len(kept) < len(rows) else ""
    return Page(kept, next_token)


def _position(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidInput(f"page_token {token[:40]!r} is not one that a reply gave")
    return int(token or 0)


def _that_fit(session: Session, rows: Sequence[tuple[Preference, Pair]]) -> int:
    ids = {i for _, pair in rows for i in (pair.left_segment_id, pair.right_segment_id)}
    size = func.length(Segment.observations)
    query = select(Segment.segment_id, size).where(Segment.segment_id.in_(ids))
    weights: dict[str, int] = dict(session.execute(query).all())
    total = 0
    for count, (_, pair) in enumerate(rows):
        total += weights.pop(pair.left_segment_id, 0) + weights.pop(pair.right_segment_id, 0)
        if total > MAX_PAGE_BYTES and count:
            return count
    return len(rows)


def progress(session: Session, policy: str, labeler: str) -> Progress:
    """How far the labels of a task are; all zeros for one without segments."""
    standing = select(func.count()).select_from(Preference).where(_stands())
    standing = standing.where(Preference.policy == policy)
    by_choice = (
        select(Preference.choice, func.count())
        .where(Preference.policy == policy, _stands())
        .group_by(Preference.choice)
    )
    counts = dict(session.execute(by_choice).all())
    held_out = standing.join(Pair, Pair.pair_id == Preference.pair_id).where(
        Pair.split == Split.HELD_OUT, Preference.choice != Choice.SKIP
    )
    segments = select(func.count()).select_from(Segment).where(Segment.policy == policy)
    open_pairs = select(func.count()).select_from(Pair).where(Pair.policy == policy)
    return Progress(
        policy=policy,
        segments=session.scalar(segments) or 0,
        labels={choice: counts.get(choice, 0) for choice in Choice},
        held_out=session.scalar(held_out) or 0,
        open_pairs=session.scalar(open_pairs.where(pairs.is_open())) or 0,
        by_labeler=session.scalar(standing.where(Preference.labeler == labeler)) or 0,
    )
