"""What the feedback service does, without gRPC: the database and the clips behind one face."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from services.common.errors import DataCorrupted, InvalidInput
from services.feedback import pairs, preferences, segments
from services.feedback.clip_store import ClipStore
from services.feedback.database import Database
from services.feedback.schema import Pair, Preference, Segment


@dataclass(frozen=True)
class ShownPair:
    """A pair with its two segments."""

    pair: Pair
    left: Segment
    right: Segment


@dataclass(frozen=True)
class ListedPreferences:
    """A page, and the segments it names where they were asked for."""

    page: preferences.Page
    segments: list[Segment]


class FeedbackCore:
    """Every method is one transaction, durable when it returns. Call from one thread.

    held_out_share: share of episodes, and of pairs, kept for judging reward models.
    """

    def __init__(self, database: Database, clips: ClipStore, held_out_share: float) -> None:
        self._database = database
        self._clips = clips
        self._held_out_share = held_out_share

    def upload(self, uploaded: Sequence[segments.NewSegment]) -> int:
        """Store segments with their clips, all or none of the rows; returns how many were new.

        A clip without a row, as after a full disk, is harmless: nothing names it, and the
        same upload writes it again.

        Raises:
            InvalidInput: when observations are not shaped as the policy's others are.
            StorageFull: when the disk is full.
        """
        for segment in self._database.run(lambda session: segments.new_ones(session, uploaded)):
            self._clips.put(segment.segment_id, segment.clip)
        return self._database.run(
            lambda session: segments.add(session, uploaded, self._held_out_share)
        )

    def clip(self, segment_id: str) -> bytes:
        """The clip of a segment.

        Raises:
            NotFound: when there is no such segment.
            DataCorrupted: when the stored clip is not what was uploaded.
        """
        row = self._database.run(lambda session: segments.get(session, segment_id))
        clip = self._clips.get(segment_id)
        if hashlib.sha256(clip).hexdigest() != row.clip_sha256:
            raise DataCorrupted(f"the clip of segment {segment_id} is damaged; upload it again")
        return clip

    def next_pair(self, policy: str, labeler: str) -> ShownPair:
        """The pair to show; see `pairs.next_pair`."""
        pairs.check_labeler(labeler)

        def work(session: Session) -> ShownPair:
            task = segments.only_policy(session, policy)
            pair = pairs.next_pair(session, task, labeler, self._held_out_share)
            left = segments.get(session, pair.left_segment_id)
            return ShownPair(pair, left, segments.get(session, pair.right_segment_id))

        return self._database.run(work)

    def submit(self, judgement: preferences.Judgement) -> tuple[Preference, Pair, bool]:
        """Record a judgement once; see `preferences.submit`."""
        return self._database.run(lambda session: preferences.submit(session, judgement))

    def undo(
        self, policy: str, labeler: str, preference_id: str, request_id: str
    ) -> tuple[Preference, Pair]:
        """Take a judgement back; see `preferences.undo`."""
        pairs.check_labeler(labeler)
        preferences.check_request_id(request_id)

        def work(session: Session) -> tuple[Preference, Pair]:
            task = segments.only_policy(session, policy)
            return preferences.undo(session, task, labeler, preference_id, request_id)

        return self._database.run(work)

    def list_preferences(
        self, policy: str, labeler: str, page_size: int, token: str, *, include_segments: bool
    ) -> ListedPreferences:
        """A page of standing preferences; see `preferences.page`."""

        def work(session: Session) -> ListedPreferences:
            task = segments.only_policy(session, policy)
            page = preferences.page(
                session, task, labeler, page_size, token, weigh=include_segments
            )
            ids = {
                i
                for _, pair in page.preferences
                for i in (pair.left_segment_id, pair.right_segment_id)
            }
            named = segments.get_many(session, sorted(ids)) if include_segments else []
            return ListedPreferences(page, named)

        return self._database.run(work)

    def progress(self, policy: str, labeler: str) -> preferences.Progress:
        """Counts of a task."""

        def work(session: Session) -> preferences.Progress:
            task = segments.only_policy(session, policy)
            return preferences.progress(session, task, labeler)

        return self._database.run(work)


def check_upload_size(count: int) -> None:
    """Refuse an upload of more segments than one call may carry.

    Raises:
        InvalidInput: with what was expected.
    """
    if not 1 <= count <= segments.MAX_UPLOAD:
        raise InvalidInput(f"{count} segments in one call, expected 1 to {segments.MAX_UPLOAD}")
