"""Uploads segments, fetches pairs, and gives and reads preferences."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator

from tutelage._calls import Connection
from tutelage.v1 import feedback_pb2 as pb
from tutelage.v1 import feedback_pb2_grpc

CALL_S = 30.0
UPLOAD_S = 120.0
PAGE = 200


class FeedbackClient(Connection):
    """A connection to FeedbackService. Thread-safe; make one and keep it.

    Every method raises a `tutelage.errors.TutelageError`.

    Args:
        address: host:port.
    """

    def __init__(self, address: str = "127.0.0.1:50053") -> None:
        super().__init__(address)
        self._stub = feedback_pb2_grpc.FeedbackServiceStub(self._channel)

    def next_pair(self, labeler: str, policy: str = "", *, timeout_s: float = CALL_S) -> pb.Pair:
        """The pair a labeler is to judge next."""
        request = pb.NextPairRequest(policy=policy, labeler=labeler)
        return self._call(self._stub.NextPair, request, timeout_s).pair

    def submit_preference(
        self,
        pair_id: str,
        labeler: str,
        choice: pb.Choice.ValueType,
        *,
        response_time_ms: int = 0,
        request_id: str | None = None,
        timeout_s: float = CALL_S,
    ) -> pb.SubmitPreferenceResponse:
        """Record a judgement; it is durable when this returns.

        Args:
            request_id: makes a repetition harmless. Default: a new one, kept over retries.
        """
        request = pb.SubmitPreferenceRequest(
            pair_id=pair_id,
            labeler=labeler,
            choice=choice,
            response_time_ms=response_time_ms,
            request_id=request_id or uuid.uuid4().hex,
        )
        return self._call(self._stub.SubmitPreference, request, timeout_s)

    def undo_preference(
        self,
        labeler: str,
        policy: str = "",
        *,
        preference_id: str = "",
        request_id: str | None = None,
        timeout_s: float = CALL_S,
    ) -> pb.Preference:
        """Take a labeler's newest standing judgement back, or the one named."""
        request = pb.UndoPreferenceRequest(
            policy=policy,
            labeler=labeler,
            preference_id=preference_id,
            request_id=request_id or uuid.uuid4().hex,
        )
        return self._call(self._stub.UndoPreference, request, timeout_s).preference

    def list_preferences(
        self, policy: str = "", labeler: str = "", *, timeout_s: float = CALL_S
    ) -> Iterator[pb.Preference]:
        """Standing preferences in the order they were given, fetched page by page.

        Args:
            timeout_s: seconds for each page.
        """
        for page in self.preference_pages(policy, labeler, timeout_s=timeout_s):
            yield from page.preferences

    def preference_pages(
        self,
        policy: str = "",
        labeler: str = "",
        *,
        include_segments: bool = False,
        page_size: int = PAGE,
        timeout_s: float = CALL_S,
    ) -> Iterator[pb.ListPreferencesResponse]:
        """As `list_preferences`, by pages, with the segments they name if asked.

        Args:
            page_size: preferences a page, 1 to 1000.
        """
        token = ""
        while True:
            request = pb.ListPreferencesRequest(
                policy=policy,
                labeler=labeler,
                page_size=page_size,
                page_token=token,
                include_segments=include_segments,
            )
            page = self._call(self._stub.ListPreferences, request, timeout_s)
            yield page
            token = page.next_page_token
            if not token:
                return

    def upload_segments(
        self, segments: Iterable[pb.Segment], *, timeout_s: float = UPLOAD_S
    ) -> pb.UploadSegmentsResponse:
        """Store segments with their clips, in one message; those there are left as they are."""
        request = pb.UploadSegmentsRequest(segments=segments)
        return self._call(self._stub.UploadSegments, request, timeout_s)

    def get_clip(self, segment_id: str, *, timeout_s: float = CALL_S) -> bytes:
        """The clip of a segment, an H.264 MP4."""
        request = pb.GetClipRequest(segment_id=segment_id)
        return self._call(self._stub.GetClip, request, timeout_s).clip

    def get_progress(
        self, policy: str = "", labeler: str = "", *, timeout_s: float = CALL_S
    ) -> pb.GetProgressResponse:
        """Counts of segments, labels and open pairs."""
        request = pb.GetProgressRequest(policy=policy, labeler=labeler)
        return self._call(self._stub.GetProgress, request, timeout_s)
