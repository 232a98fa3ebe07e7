"""The Reward model page: how well it predicts labels it has not seen."""

from __future__ import annotations

import streamlit as st

from services.feedback.app import charts
from services.feedback.app.connection import (
    Connection,
    connect,
    needing_feedback,
    needing_trainer,
    task_of,
)
from services.feedback.app.run_views import ENDED
from services.feedback.app.training import update
from tutelage import TrainingClient, TutelageError
from tutelage.v1 import feedback_pb2, training_pb2

ALGORITHM = "dqn-rlhf"
PRESET_SUFFIX = "-rlhf"
ENOUGH_LABELS = 50
GUESSING_LOG_LOSS = 0.69
RUNS_SHOWN = 20
REFRESH_S = 3.0


def page() -> None:
    """Show the page."""
    connection = connect()
    st.title("Reward model")
    with needing_feedback(connection):
        task = task_of(connection)
        progress = connection.feedback.get_progress(task)
        _show_labels(progress)
        with needing_trainer(connection):
            _offer_tuning(connection, task or progress.policy, progress)
            _show_fits(connection, task or progress.policy)


def _show_labels(progress: feedback_pb2.GetProgressResponse) -> None:
    labels = progress.left + progress.right + progress.ties
    figures = {
        "Labels": f"{labels} of {progress.goal}",
        "Left / right / tie": f"{progress.left} / {progress.right} / {progress.ties}",
        "Skipped": str(progress.skips),
        "Held out for judging": str(progress.held_out),
    }
    for column, (name, value) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(name, value)


def _offer_tuning(
    connection: Connection, task: str, progress: feedback_pb2.GetProgressResponse
) -> None:
    labels = progress.left + progress.right + progress.ties
    running = next(
        (r for r in _tuning_runs(connection.training, task) if r.status not in ENDED), None
    )
    button, hint = st.columns([1, 3], vertical_alignment="center")
    if running is not None:
        button.badge("Fine-tuning", icon=":material/autorenew:", color="blue")
        hint.caption(f"`{running.run_id}` is under way; follow it on the Training page.")
        return
    ready = labels >= ENOUGH_LABELS
    if button.button(
        "Fine-tune the policy",
        type="primary",
        icon=":material/tune:",
        disabled=not ready,
        width="stretch",
    ):
        _tune(connection.training, task)
    hint.caption(
        "Fits a reward model to the labels and tunes the deployed policy with it. "
        + ("" if ready else f"Needs {ENOUGH_LABELS - labels} more labels.")
    )


def _tune(client: TrainingClient, task: str) -> None:
    try:
        client.start_run(task + PRESET_SUFFIX)
    except TutelageError as error:
        st.error(f"The run could not start: {error}", icon=":material/error:")
    else:
        st.rerun()


def _tuning_runs(client: TrainingClient, task: str) -> list[training_pb2.Run]:
    return [run for run in client.list_runs(task) if run.algorithm == ALGORITHM]


@st.fragment(run_every=REFRESH_S)
def _show_fits(connection: Connection, task: str) -> None:
    with needing_trainer(connection):
        client = connection.training
        runs = _tuning_runs(client, task)[:RUNS_SHOWN]
        fits = [fit for run in reversed(runs) for fit in update(client, run.run_id).fits]
        if not fits:
            st.info(
                "No reward model has been fitted yet. Label pairs on the Label page, "
                "then fine-tune.",
                icon=":material/info:",
            )
            return
        _show_newest(fits[-1])
        _show_charts(fits)


def _show_newest(fit: training_pb2.RewardModelFitted) -> None:
    row = st.container(horizontal=True, vertical_alignment="center")
    row.subheader(f"Newest: version {fit.version}", anchor=False, width="content")
    if fit.accepted:
        row.badge("Accepted", icon=":material/check_circle:", color="green")
    else:
        row.badge("Below the gate", icon=":material/block:", color="red")
    interval = f"95% interval {fit.accuracy_low:.0%} to {fit.accuracy_high:.0%}"
    guessing = f"guessing costs {GUESSING_LOG_LOSS}"
    columns = st.columns(4)
    columns[0].metric("Held-out accuracy", f"{fit.accuracy:.0%}")
    columns[0].caption(interval)
    columns[1].metric("Log-loss", f"{fit.log_loss:.2f}")
    columns[1].caption(guessing)
    columns[2].metric("Calibration error", f"{fit.calibration_error:.1%}")
    columns[2].caption("mean gap to the diagonal")
    columns[3].metric("Judged on", f"{fit.held_out_preferences}")
    columns[3].caption(f"fitted to {fit.train_preferences} labels")


def _show_charts(fits: list[training_pb2.RewardModelFitted]) -> None:
    left, right = st.columns(2, gap="large")
    left.markdown("**Calibration**: circles on the line mean honest probabilities")
    left.altair_chart(charts.reliability_chart(fits[-1]), key="reliability")
    right.markdown("**Held-out accuracy** by version, with 95% intervals")
    right.altair_chart(charts.accuracy_chart(fits), key="accuracy")
