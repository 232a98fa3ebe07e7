"""The Training page: runs and their curves as they grow, one by itself or several compared."""

from __future__ import annotations

from datetime import UTC, datetime

import streamlit as st

from services.feedback.app import start_run
from services.feedback.app.comparing import have_seeds_in_common, lines
from services.feedback.app.connection import Connection, connect, needing_trainer
from services.feedback.app.curves import Summary
from services.feedback.app.run_charts import Look, figure_chart, returns_chart
from services.feedback.app.run_history import Histories, RunHistory
from services.feedback.app.run_views import (
    ENDED,
    show_differences,
    show_messages,
    show_one,
    show_several,
)
from tutelage import TrainingClient
from tutelage.v1 import training_pb2 as pb

RECORDING = "segments"
REFRESH_S = 1.5
MOST_COMPARED = 24
STARTER_PX = 160
FIGURES_A_ROW = 3
FIGURES_AT_FIRST = 2
FIRST_FIGURES = ("loss", "critic_loss", "td_error", "epsilon", "entropy")
CHOSEN = "runs"
SIGNS = {
    pb.RUN_STATUS_QUEUED: "…",
    pb.RUN_STATUS_RUNNING: "▶",
    pb.RUN_STATUS_SUCCEEDED: "✓",
    pb.RUN_STATUS_STOPPED: "■",
    pb.RUN_STATUS_FAILED: "✗",
}


def page() -> None:
    """Show the page."""
    connection = connect()
    row = st.container(horizontal=True, vertical_alignment="center")
    row.title("Training", width="content")
    picker, starter = row.container(width="stretch"), row.container(width=STARTER_PX)
    with needing_trainer(connection):
        with starter:
            start_run.offer(connection.training, CHOSEN)
        runs = connection.training.list_runs()
        if not runs:
            _show_nothing_yet()
            return
        with picker:
            chosen = _choose(runs)
        if not chosen:
            st.info("Choose a run above, or several to compare them.", icon=":material/show_chart:")
            return
        active = any(run.status not in ENDED for run in chosen)
        show = st.fragment(_show, run_every=REFRESH_S if active else None)
        show(connection, [run.run_id for run in chosen], [run.status for run in chosen])


def update(client: TrainingClient, run_id: str) -> RunHistory:
    """A run's history with what is new."""
    return _histories().updated(client, run_id)


@st.cache_resource(show_spinner=False)
def _histories() -> Histories:
    return Histories()


def _show_nothing_yet() -> None:
    with st.container(border=True):
        st.subheader("No run yet", anchor=False)
        st.markdown(
            "Start one with the button above: `cartpole-dqn` learns to balance a pole in about a "
            "minute. Its curves grow here while it does, and several seeds or presets can be "
            "laid over one another."
        )


def _choose(runs: list[pb.Run]) -> list[pb.Run]:
    by_id = {run.run_id: run for run in runs}
    asked = [run_id for run_id in st.query_params.get_all("run") if run_id in by_id]
    if CHOSEN not in st.session_state:
        st.session_state[CHOSEN] = asked or [_most_telling(runs).run_id]
    elif any(run_id not in by_id for run_id in st.session_state[CHOSEN]):  # removed meanwhile
        st.session_state[CHOSEN] = [r for r in st.session_state[CHOSEN] if r in by_id]
    chosen: list[str] = st.multiselect(
        "Runs",
        list(by_id),
        format_func=lambda run_id: _label(by_id[run_id]),
        key=CHOSEN,
        label_visibility="collapsed",
        placeholder="Choose a run, or several to compare",
        max_selections=MOST_COMPARED,
        persist_state="session",
    )
    st.query_params["run"] = chosen  # so that a comparison has an address
    return [run for run in reversed(runs) if run.run_id in chosen]


def _label(run: pb.Run) -> str:
    created, now = run.created_at.ToDatetime(UTC).astimezone(), datetime.now().astimezone()
    when = f"{created:%H:%M}" if created.date() == now.date() else f"{created:%d %b %H:%M}"
    return f"{SIGNS.get(run.status, '?')} {run.preset} · seed {run.seed} · {when}"


def _most_telling(runs: list[pb.Run]) -> pb.Run:
    """The newest that is under way; else the newest that learned; else the newest."""
    under_way = (run for run in runs if run.status == pb.RUN_STATUS_RUNNING)
    learned = (run for run in runs if run.algorithm != RECORDING)
    return next(under_way, next(learned, runs[0]))


def _show(connection: Connection, run_ids: list[str], statuses_before: list[int]) -> None:
    with needing_trainer(connection):
        client = connection.training
        runs = [client.get_run(run_id) for run_id in run_ids]
        if [run.status for run in runs] != statuses_before:
            st.rerun()
        histories = {run.run_id: update(client, run.run_id) for run in runs}
        if len(runs) == 1:
            show_one(client, runs[0], histories[runs[0].run_id])
        _show_curves(client, [run for run in runs if run.algorithm != RECORDING], histories)
        show_messages(runs, histories)


def _show_curves(
    client: TrainingClient, runs: list[pb.Run], histories: dict[str, RunHistory]
) -> None:
    if not runs:
        return
    look = _choose_look(runs)
    drawn = lines(runs, look.summary)
    learning = {run.run_id: histories[run.run_id] for run in runs}
    if any(history.episodes or history.evaluations for history in learning.values()):
        st.altair_chart(returns_chart(drawn, learning, look), key="returns")
        st.caption(_legend(look, alone=len(runs) == 1))
    else:
        st.info(_why_nothing(runs), icon=":material/hourglass_empty:")
    if len(runs) > 1:
        each = lines(runs, Summary.EACH)
        show_several(client, runs, learning, each)
        show_differences(runs, each)
    _show_figures(runs, learning, look)


def _choose_look(runs: list[pb.Run]) -> Look:
    row = st.container(horizontal=True, vertical_alignment="center")
    # All at the left: a chart's own buttons come up over the right end of this row.
    row.markdown("**Return** over environment steps", width="content")
    summary = Summary.EACH
    if have_seeds_in_common(runs):
        summary = (
            row.segmented_control(
                "Seeds",
                list(Summary),
                default=Summary.IQM,
                key="summary",
                label_visibility="collapsed",
                required=True,
            )
            or Summary.EACH
        )
    log_steps = row.toggle("Log steps", key="log_steps")
    return Look(summary=summary, log_steps=log_steps)


def _legend(look: Look, *, alone: bool) -> str:
    if alone:
        return (
            "Line: mean of the last 100 training episodes, each of which is a dot. "
            "Circles: evaluations of the greedy policy. Diamonds: published versions."
        )
    lines_are = {
        Summary.EACH: "Lines: mean of the last 100 training episodes.",
        Summary.MEAN: "Lines: mean over seeds of the last 100 training episodes; "
        "bands: lowest to highest seed.",
        Summary.IQM: "Lines: interquartile mean over seeds of the last 100 training episodes; "
        "bands: the middle half of the seeds.",
    }
    return (
        f"{lines_are[look.summary]} Circles: evaluations. Click a name to bring its line out; "
        "with Shift, several."
    )


def _why_nothing(runs: list[pb.Run]) -> str:
    if all(run.status == pb.RUN_STATUS_QUEUED for run in runs):
        return "Waiting for a free place. The curves begin when the first episodes have ended."
    if all(run.status in ENDED for run in runs):
        return "Nothing to draw: no episode had ended when this was over."
    return "The first episodes are being played. Their curve comes as soon as one has ended."


def _show_figures(runs: list[pb.Run], histories: dict[str, RunHistory], look: Look) -> None:
    known = sorted({name for history in histories.values() for name in history.metrics})
    names = sorted(known, key=lambda name: name not in FIRST_FIGURES)
    if not names:
        return
    row = st.container(horizontal=True, vertical_alignment="center")
    row.markdown("**Figures** of the learner", width="stretch")
    log_values = row.toggle("Log values", key="log_values")
    wanted = st.pills(
        "Figures",
        names,
        default=[name for name in FIRST_FIGURES if name in names][:FIGURES_AT_FIRST] or names[:1],
        selection_mode="multi",
        key="figures",
        label_visibility="collapsed",
    )
    look = Look(look.summary, look.log_steps, log_values)
    drawn = lines(runs, look.summary)
    for start in range(0, len(wanted), FIGURES_A_ROW):
        shown = wanted[start : start + FIGURES_A_ROW]
        for column, name in zip(st.columns(len(shown)), shown, strict=True):
            column.markdown(f"**{name}**")
            column.altair_chart(figure_chart(name, drawn, histories, look), key=f"figure-{name}")
