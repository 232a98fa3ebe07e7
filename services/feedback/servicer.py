"""FeedbackService over gRPC: converts, and runs the core in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from services.feedback import convert
from services.feedback.core import FeedbackCore, check_upload_size
from services.feedback.segments import NewSegment
from tutelage.v1 import feedback_pb2 as pb
from tutelage.v1.feedback_pb2_grpc import FeedbackServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")


class FeedbackServicer(FeedbackServiceServicer):
    """Converts messages; every decision is the core's.

    The core runs in one thread: SQLite has one writer, and a queue here is fairer and quicker
    than waiting for its lock.
    """

    def __init__(self, core: FeedbackCore, goal: int) -> None:
        self._core = core
        self._goal = goal
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feedback-core")

    def close(self) -> None:
        """Let the work under way finish."""
        self._thread.shutdown()

    async def NextPair(self, request: pb.NextPairRequest, context: Context) -> pb.NextPairResponse:
        """See feedback.proto."""
        shown = await self._run(lambda: self._core.next_pair(request.policy, request.labeler))
        return pb.NextPairResponse(pair=convert.pair_message(shown))

    async def SubmitPreference(
        self, request: pb.SubmitPreferenceRequest, context: Context
    ) -> pb.SubmitPreferenceResponse:
        """See feedback.proto."""
        judgement = convert.judgement(request)
        preference, pair, duplicate = await self._run(lambda: self._core.submit(judgement))
        return pb.SubmitPreferenceResponse(
            preference=convert.preference_message(preference, pair), duplicate=duplicate
        )

    async def UndoPreference(
        self, request: pb.UndoPreferenceRequest, context: Context
    ) -> pb.UndoPreferenceResponse:
        """See feedback.proto."""
        undone = await self._run(
            lambda: self._core.undo(
                request.policy, request.labeler, request.preference_id, request.request_id
            )
        )
        return pb.UndoPreferenceResponse(preference=convert.preference_message(*undone))

    async def ListPreferences(
        self, request: pb.ListPreferencesRequest, context: Context
    ) -> pb.ListPreferencesResponse:
        """See feedback.proto."""
        listed = await self._run(
            lambda: self._core.list_preferences(
                request.policy,
                request.labeler,
                request.page_size,
                request.page_token,
                include_segments=request.include_segments,
            )
        )
        return convert.list_message(listed)

    async def UploadSegments(
        self, request: pb.UploadSegmentsRequest, context: Context
    ) -> pb.UploadSegmentsResponse:
        """See feedback.proto."""
        check_upload_size(len(request.segments))
        # Decoding clips takes long; it must not hold up the labels.
        uploaded = await asyncio.to_thread(_checked, request)
        created = await self._run(lambda: self._core.upload(uploaded))
        return pb.UploadSegmentsResponse(
            segment_ids=[segment.segment_id for segment in uploaded], created=created
        )

    async def GetClip(self, request: pb.GetClipRequest, context: Context) -> pb.GetClipResponse:
        """See feedback.proto."""
        clip = await self._run(lambda: self._core.clip(request.segment_id))
        return pb.GetClipResponse(clip=clip)

    async def GetProgress(
        self, request: pb.GetProgressRequest, context: Context
    ) -> pb.GetProgressResponse:
        """See feedback.proto."""
        progress = await self._run(lambda: self._core.progress(request.policy, request.labeler))
        return convert.progress_message(progress, self._goal)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _checked(request: pb.UploadSegmentsRequest) -> list[NewSegment]:
    return [convert.uploaded_segment(segment) for segment in request.segments]
