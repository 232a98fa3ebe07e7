"""The Label page: two clips in step, and one key to say which is better."""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass, field
from typing import Literal

import streamlit as st

from services.feedback.app import recording
from services.feedback.app.component import component
from services.feedback.app.connection import connect, needing_feedback, task_of
from tutelage import FeedbackClient, TutelageError, errors
from tutelage.v1 import feedback_pb2 as pb

CHOICES: dict[str, pb.Choice.ValueType] = {
    "left": pb.CHOICE_LEFT,
    "right": pb.CHOICE_RIGHT,
    "tie": pb.CHOICE_TIE,
    "skip": pb.CHOICE_SKIP,
}
NAMES = {number: name for name, number in CHOICES.items()}
WIDGET = "judge"
DEFAULT_LABELER = "guest"
MAX_LABELER = 64
CLIPS_KEPT = 64

judge = component("judge")


@dataclass(frozen=True)
class Answer:
    """A judgement on its way to the service; `request_id` makes sending it again harmless."""

    pair_id: str
    choice: str
    response_time_ms: int
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class TakingBack:
    """An undo on its way to the service."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass
class Judging:
    """One visitor's state: what is not on the service's disk yet, and what was last said.

    turn: goes up with each reply, so that the browser takes the next answer.
    """

    pending: Answer | TakingBack | None = None
    status: Literal["", "saved", "error"] = ""
    text: str = ""
    turn: int = 0

    def tell(self, status: Literal["", "saved", "error"], text: str) -> None:
        """Say what came of the pending answer, which is dealt with."""
        self.pending, self.status, self.text = None, status, text
        self.turn += 1


def page() -> None:
    """Show the page."""
    connection = connect()
    labeler = _labeler()
    st.title("Which do you prefer?")
    state: Judging = st.session_state.setdefault("judging", Judging())
    note = "Your last answer is not saved yet; it will be sent again." if state.pending else ""
    with needing_feedback(connection, note):
        task = task_of(connection)
        _settle(connection.feedback, task, labeler, state)
        progress = connection.feedback.get_progress(task, labeler)
        task = task or progress.policy
        if progress.segments < 2:
            recording.invite(connection, task, "There is nothing to compare yet.")
            return
        _show_progress(progress)
        try:
            pair = connection.feedback.next_pair(labeler, task)
        except errors.PreconditionFailed:
            recording.invite(connection, task, "You have judged every pair there is.")
            return
        _show_pair(connection.feedback, pair, state)


def _labeler() -> str:
    name = st.sidebar.text_input(
        "Your name",
        DEFAULT_LABELER,
        key="labeler",
        max_chars=MAX_LABELER,
        bind="query-params",
        help="Labels are kept under this name. Each person is shown each pair once.",
    )
    return (name or "").strip() or DEFAULT_LABELER


def _settle(client: FeedbackClient, task: str, labeler: str, state: Judging) -> None:
    """Send what is pending. While the service is away it stays pending and is sent again."""
    pending = state.pending
    if pending is None:
        return
    try:
        if isinstance(pending, Answer):
            client.submit_preference(
                pending.pair_id,
                labeler,
                CHOICES[pending.choice],
                response_time_ms=pending.response_time_ms,
                request_id=pending.request_id,
            )
            state.tell("saved", f"✓ Saved: {pending.choice}")
        else:
            undone = client.undo_preference(labeler, task, request_id=pending.request_id)
            state.tell("", f"Taken back: {NAMES[undone.choice]}")
    except (errors.Unavailable, errors.DeadlineExceeded):
        raise
    except TutelageError as error:
        state.tell("error", f"Not saved: {error}")


def _show_progress(progress: pb.GetProgressResponse) -> None:
    labels = progress.left + progress.right + progress.ties
    st.progress(
        min(1.0, labels / progress.goal),
        text=f"**{labels}** of {progress.goal} labels · {progress.left} left · "
        f"{progress.right} right · {progress.ties} ties · {progress.skips} skipped · "
        f"{progress.by_labeler} by you",
    )
    if labels >= progress.goal:
        st.caption("The goal is reached: fine-tune on the Reward model page, or go on labelling.")


def _show_pair(client: FeedbackClient, pair: pb.Pair, state: Judging) -> None:
    judge(
        key=WIDGET,
        data={
            "pair_id": pair.pair_id,
            "left": _clip(pair.left.segment_id, client),
            "right": _clip(pair.right.segment_id, client),
            "turn": state.turn,
            "status_kind": state.status,
            "status_text": state.text,
        },
        on_judged_change=_on_judged,
        on_undone_change=_on_undone,
    )


@st.cache_data(max_entries=CLIPS_KEPT, show_spinner=False)
def _clip(segment_id: str, _client: FeedbackClient) -> str:
    return base64.b64encode(_client.get_clip(segment_id)).decode()


def _on_judged() -> None:
    answer = st.session_state[WIDGET]["judged"]
    if answer:
        st.session_state.judging.pending = Answer(
            answer["pair_id"], answer["choice"], int(answer["response_time_ms"])
        )


def _on_undone() -> None:
    if st.session_state[WIDGET]["undone"]:
        st.session_state.judging.pending = TakingBack()
