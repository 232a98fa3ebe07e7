"""Between the wire's messages and the feedback service's own types."""

from __future__ import annotations

from services.common.errors import InvalidInput
from services.common.wire import timestamp
from services.feedback.core import ListedPreferences, ShownPair
from services.feedback.preferences import Judgement, Progress
from services.feedback.schema import Choice, Pair, Preference, Segment, Split
from services.feedback.segments import NewSegment
from tutelage.v1 import feedback_pb2 as pb

CHOICES = {
    pb.CHOICE_LEFT: Choice.LEFT,
    pb.CHOICE_RIGHT: Choice.RIGHT,
    pb.CHOICE_TIE: Choice.TIE,
    pb.CHOICE_SKIP: Choice.SKIP,
}
_WIRE_CHOICES = {choice: number for number, choice in CHOICES.items()}
_WIRE_SPLITS = {Split.TRAIN: pb.SPLIT_TRAIN, Split.HELD_OUT: pb.SPLIT_HELD_OUT}


def uploaded_segment(message: pb.Segment) -> NewSegment:
    """An uploaded segment, checked."""
    return NewSegment(
        policy=message.policy,
        policy_version=message.policy_version,
        episode_id=message.episode_id,
        start_step=message.start_step,
        length=message.length,
        observation_shape=tuple(message.observation_shape),
        observations=message.observations,
        actions=message.actions,
        rewards=message.rewards,
        clip=message.clip,
        frames_per_s=message.frames_per_s,
    )


def judgement(request: pb.SubmitPreferenceRequest) -> Judgement:
    """A submitted judgement, checked.

    Raises:
        InvalidInput: when there is no choice in it.
    """
    choice = CHOICES.get(request.choice)
    if choice is None:
        raise InvalidInput(
            f"choice is {request.choice}, expected CHOICE_LEFT, CHOICE_RIGHT, CHOICE_TIE "
            "or CHOICE_SKIP"
        )
    return Judgement(
        pair_id=request.pair_id,
        labeler=request.labeler,
        choice=choice,
        request_id=request.request_id,
        response_time_ms=request.response_time_ms,
    )


def segment_message(row: Segment, *, with_rewards: bool) -> pb.Segment:
    """A segment without its clip."""
    return pb.Segment(
        segment_id=row.segment_id,
        policy=row.policy,
        policy_version=row.policy_version,
        episode_id=row.episode_id,
        start_step=row.start_step,
        length=row.length,
        observation_shape=row.observation_shape,
        observations=row.observations,
        actions=row.actions,
        rewards=row.rewards if with_rewards else b"",
        split=_WIRE_SPLITS[Split(row.split)],
        frames_per_s=row.frames_per_s,
    )


def pair_message(shown: ShownPair) -> pb.Pair:
    """A pair for a teacher, who must not see the environment's rewards."""
    return pb.Pair(
        pair_id=shown.pair.pair_id,
        policy=shown.pair.policy,
        left=segment_message(shown.left, with_rewards=False),
        right=segment_message(shown.right, with_rewards=False),
        split=_WIRE_SPLITS[Split(shown.pair.split)],
    )


def preference_message(preference: Preference, pair: Pair) -> pb.Preference:
    """A preference with the sides as they were shown."""
    return pb.Preference(
        preference_id=preference.preference_id,
        pair_id=pair.pair_id,
        policy=pair.policy,
        labeler=preference.labeler,
        choice=_WIRE_CHOICES[Choice(preference.choice)],
        left_segment_id=pair.left_segment_id,
        right_segment_id=pair.right_segment_id,
        split=_WIRE_SPLITS[Split(pair.split)],
        created_at=timestamp(preference.created_at),
        response_time_ms=preference.response_time_ms,
    )


def list_message(listed: ListedPreferences) -> pb.ListPreferencesResponse:
    """A page of preferences."""
    return pb.ListPreferencesResponse(
        preferences=[preference_message(*row) for row in listed.page.preferences],
        segments=[segment_message(row, with_rewards=True) for row in listed.segments],
        next_page_token=listed.page.next_token,
    )


def progress_message(progress: Progress, goal: int) -> pb.GetProgressResponse:
    """Counts of a task."""
    return pb.GetProgressResponse(
        policy=progress.policy,
        segments=progress.segments,
        left=progress.labels[Choice.LEFT],
        right=progress.labels[Choice.RIGHT],
        ties=progress.labels[Choice.TIE],
        skips=progress.labels[Choice.SKIP],
        held_out=progress.held_out,
        open_pairs=progress.open_pairs,
        by_labeler=progress.by_labeler,
        goal=goal,
    )
