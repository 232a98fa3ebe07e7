"""Invites a visitor to have clips recorded, and shows how far the recording is."""

from __future__ import annotations

import secrets

import streamlit as st

from services.feedback.app.connection import Connection
from tutelage import TutelageError
from tutelage.v1 import training_pb2 as pb

PRESET_SUFFIX = "-segments"
DEFAULT_TASK = "cartpole"
ALGORITHM = "segments"
UNFINISHED = (pb.RUN_STATUS_QUEUED, pb.RUN_STATUS_RUNNING)
REFRESH_S = 1.0
ANSWER_S = 3.0


def invite(connection: Connection, task: str, reason: str) -> None:
    """Say why there is no pair, and offer to record segments or show that they are coming."""
    with st.container(border=True):
        st.subheader(reason, anchor=False)
        st.markdown(
            "Clips show short stretches of what the policy does. Recording plays some episodes "
            "of the deployed policy and takes about a minute."
        )
        try:
            run = _recording(connection, task)
        except TutelageError as error:
            st.info(f"Clips are recorded by the trainer, which says: {error}")
            return
        if run is not None:
            _follow(connection, run.run_id)
        elif st.button("Record clips", type="primary", icon=":material/videocam:"):
            _start(connection, task)


def _recording(connection: Connection, task: str) -> pb.Run | None:
    runs = connection.training.list_runs(task, timeout_s=ANSWER_S)
    recordings = (run for run in runs if run.algorithm == ALGORITHM and run.status in UNFINISHED)
    return next(recordings, None)


def _start(connection: Connection, task: str) -> None:
    try:
        # The preset's own seed would give the clips there are already.
        seed = secrets.randbelow(2**31)
        connection.training.start_run((task or DEFAULT_TASK) + PRESET_SUFFIX, seed=seed)
    except TutelageError as error:
        st.error(f"The recording could not start: {error}")
    else:
        st.rerun()


@st.fragment(run_every=REFRESH_S)
def _follow(connection: Connection, run_id: str) -> None:
    try:
        run = connection.training.get_run(run_id)
    except TutelageError:
        st.info("Recording … (the trainer does not answer right now)")
        return
    if run.status not in UNFINISHED:
        if run.error:
            st.error(f"The recording failed: {run.error}")
            return
        st.rerun()
    progress = run.progress
    share = progress.done / progress.total if progress.total else 0.0
    unit = progress.unit or "segments"
    st.progress(
        min(1.0, share), text=f"Recording clips: {progress.done} of {progress.total} {unit}"
    )
