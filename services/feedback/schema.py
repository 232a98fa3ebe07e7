"""Tables of the feedback service.

Rows are added and never changed. An undo is a row of its own, so that what people said, and
when they took it back, stays on record.

    segments ◄── pairs ◄── preferences ◄── undos

A preference stands unless an undo names it. Columns hold nothing that only one database
knows; arrays are little-endian bytes as on the wire.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers rows by itself only in a column declared INTEGER.
RowNumber = BigInteger().with_variant(Integer, "sqlite")
ID_LENGTH = 32


class Choice(StrEnum):
    """A judgement of a pair."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    SKIP = "skip"


class Split(StrEnum):
    """Whether a segment's pairs are fitted to or only judged on."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class Moment(TypeDecorator[datetime]):
    """A point in time in UTC, also where the database forgets time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give UTC back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Root of the tables; names every constraint, so that migrations can name it too."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Segment(Base):
    """A stretch of an episode. Its clip lies beside the database; see `clips`."""

    __tablename__ = "segments"
    __table_args__ = (Index(None, "policy", "split"), Index(None, "policy", "episode_id"))

    segment_id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True)
    policy: Mapped[str] = mapped_column(String(63))
    policy_version: Mapped[int] = mapped_column(BigInteger)
    episode_id: Mapped[str] = mapped_column(String(128))
    start_step: Mapped[int] = mapped_column(BigInteger)
    length: Mapped[int] = mapped_column(Integer)
    observation_shape: Mapped[list[int]] = mapped_column(JSON)
    observations: Mapped[bytes] = mapped_column(LargeBinary)  # (length, *shape) float32
    actions: Mapped[bytes] = mapped_column(LargeBinary)  # (length,) int64
    rewards: Mapped[bytes] = mapped_column(LargeBinary)  # (length,) float32
    frames_per_s: Mapped[float] = mapped_column(Float(53))
    clip_sha256: Mapped[str] = mapped_column(String(64))
    split: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)


class Pair(Base):
    """Two segments as they were shown to one labeler, once."""

    __tablename__ = "pairs"
    __table_args__ = (UniqueConstraint("labeler", "low_segment_id", "high_segment_id"),)

    number: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    pair_id: Mapped[str] = mapped_column(String(ID_LENGTH), unique=True)
    policy: Mapped[str] = mapped_column(String(63), index=True)
    labeler: Mapped[str] = mapped_column(String(64))
    left_segment_id: Mapped[str] = mapped_column(ForeignKey("segments.segment_id"))
    right_segment_id: Mapped[str] = mapped_column(ForeignKey("segments.segment_id"))
    # The same two in alphabetical order, so that a swapped pair counts as the same.
    low_segment_id: Mapped[str] = mapped_column(String(ID_LENGTH))
    high_segment_id: Mapped[str] = mapped_column(String(ID_LENGTH))
    split: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)


class Preference(Base):
    """A judgement of a pair by the labeler it was shown to.

    `round` counts how often the pair's earlier judgements were undone: at most one judgement
    a round, whatever two replicas do at once.
    """

    __tablename__ = "preferences"
    __table_args__ = (
        UniqueConstraint("pair_id", "round"),
        UniqueConstraint("labeler", "request_id"),
        Index(None, "policy", "number"),
    )

    number: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    preference_id: Mapped[str] = mapped_column(String(ID_LENGTH), unique=True)
    pair_id: Mapped[str] = mapped_column(ForeignKey("pairs.pair_id"))
    round: Mapped[int] = mapped_column(Integer)
    policy: Mapped[str] = mapped_column(String(63))
    labeler: Mapped[str] = mapped_column(String(64))
    choice: Mapped[str] = mapped_column(String(8))
    request_id: Mapped[str | None] = mapped_column(String(128))
    response_time_ms: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)


class Undo(Base):
    """The event that a judgement was taken back; at most one for each."""

    __tablename__ = "undos"
    __table_args__ = (UniqueConstraint("labeler", "request_id"),)

    number: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    preference_id: Mapped[str] = mapped_column(ForeignKey("preferences.preference_id"), unique=True)
    labeler: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)
