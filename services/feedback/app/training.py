"""The Training page: runs, their curves as they grow, and buttons to start and stop them."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from services.feedback.app import charts
from services.feedback.app.connection import Connection, connect, needing_trainer
from services.feedback.app.run_history import RunHistory
from tutelage import TrainingClient, TutelageError
from tutelage.v1 import training_pb2 as pb

RECORDING = "segments"
REFRESH_S = 1.5
BADGES = {
    pb.RUN_STATUS_QUEUED: ("Queued", "gray", ":material/schedule:"),
    pb.RUN_STATUS_RUNNING: ("Running", "blue", ":material/play_circle:"),
    pb.RUN_STATUS_SUCCEEDED: ("Succeeded", "green", ":material/check_circle:"),
    pb.RUN_STATUS_STOPPED: ("Stopped", "orange", ":material/stop_circle:"),
    pb.RUN_STATUS_FAILED: ("Failed", "red", ":material/error:"),
}
UNFINISHED = (pb.RUN_STATUS_QUEUED, pb.RUN_STATUS_RUNNING)
RESUMABLE = (pb.RUN_STATUS_STOPPED, pb.RUN_STATUS_FAILED)


def page() -> None:
    """Show the page."""
    connection = connect()
    title, picker, starter = st.columns([3, 6, 2], vertical_alignment="center")
    title.title("Training")
    with needing_trainer(connection):
        with starter:
            _start(connection.training)
        runs = connection.training.list_runs()
        if not runs:
            st.info("No run yet. Start one with the button above.", icon=":material/info:")
            return
        with picker:
            run = _choose(runs)
        active = run.status in UNFINISHED
        show = st.fragment(_show, run_every=REFRESH_S if active else None)
        show(connection, run.run_id, run.status)


def _start(client: TrainingClient) -> None:
    with st.popover("Start a run", icon=":material/add:", width="stretch"):
        presets = {preset.name: preset for preset in client.presets()}
        chosen = st.selectbox("Preset", list(presets))
        if chosen is None:
            st.info("The trainer knows no preset.", icon=":material/info:")
            return
        st.caption(presets[chosen].description)
        seed = st.number_input(
            "Seed", min_value=0, value=None, step=1, placeholder="as the preset says"
        )
        if st.button("Start", type="primary", width="stretch"):
            run = client.start_run(chosen, seed=None if seed is None else int(seed))
            st.session_state["run"] = run.run_id
            st.rerun()


def _choose(runs: list[pb.Run]) -> pb.Run:
    by_id = {run.run_id: run for run in runs}
    if st.session_state.get("run") not in by_id:
        st.session_state["run"] = _most_telling(runs).run_id
    chosen: str = st.selectbox(
        "Run",
        list(by_id),
        format_func=lambda run_id: f"{run_id} · {_status(by_id[run_id])[0].lower()}",
        key="run",
        label_visibility="collapsed",
        persist_state="session",
    )
    return by_id[chosen]


def _most_telling(runs: list[pb.Run]) -> pb.Run:
    """The newest that is under way; else the newest that learned; else the newest."""
    under_way = (run for run in runs if run.status == pb.RUN_STATUS_RUNNING)
    learned = (run for run in runs if run.algorithm != RECORDING)
    return next(under_way, next(learned, runs[0]))


def _status(run: pb.Run) -> tuple[str, str, str]:
    return BADGES.get(run.status, ("Unknown", "gray", ":material/help:"))


def _show(connection: Connection, run_id: str, status_before: int) -> None:
    with needing_trainer(connection):
        run = connection.training.get_run(run_id)
        if run.status != status_before:
            st.rerun()
        history = update(connection.training, run_id)
        _show_status(connection.training, run)
        if run.algorithm != RECORDING:
            _show_figures(run, history)
            _show_curves(history)
        for message in history.messages[-3:]:
            show: Callable[[str], object] = {"warning": st.warning, "error": st.error}.get(
                message.level, st.caption
            )
            show(message.text)


def update(client: TrainingClient, run_id: str) -> RunHistory:
    """A run's history with what is new; kept in the visitor's session between calls."""
    histories: dict[str, RunHistory] = st.session_state.setdefault("histories", {})
    history = histories.setdefault(run_id, RunHistory())
    history.add(
        client.watch_run(run_id, after_sequence=history.last_sequence, follow=False, timeout_s=20)
    )
    return history


def _show_status(client: TrainingClient, run: pb.Run) -> None:
    badge, bar, button = st.columns([1, 6, 1], vertical_alignment="center")
    name, colour, icon = _status(run)
    badge.badge(name, icon=icon, color=colour)  # type: ignore[arg-type]
    if run.HasField("progress"):
        bar.progress(_share(run), text=_progress_text(run))
    with button:
        if run.status in UNFINISHED:
            _button("Stop", ":material/stop:", lambda: client.stop_run(run.run_id))
        elif run.status in RESUMABLE:
            _button("Resume", ":material/play_arrow:", lambda: client.resume_run(run.run_id))
    if run.error:
        st.error(run.error, icon=":material/error:")


def _share(run: pb.Run) -> float:
    """How far along a run is, 0 to 1; one that has reached its goal early is done."""
    progress = run.progress
    if run.status == pb.RUN_STATUS_SUCCEEDED:
        return 1.0
    return min(1.0, progress.done / progress.total) if progress.total else 0.0


def _progress_text(run: pb.Run) -> str:
    progress = run.progress
    if run.status == pb.RUN_STATUS_SUCCEEDED and progress.done < progress.total:
        return f"done after {progress.done:,} of at most {progress.total:,} {progress.unit}"
    text = f"{progress.phase} · {progress.done:,} of {progress.total:,} {progress.unit}"
    if run.status == pb.RUN_STATUS_RUNNING and progress.rate > 0:
        unit = "steps" if progress.unit == "env steps" else progress.unit
        text += f" · {progress.rate:,.0f} {unit}/s · {_duration(progress.remaining_s)} left"
    return text


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60} s"


def _button(text: str, icon: str, action: Callable[[], object]) -> None:
    if st.button(text, icon=icon, width="stretch"):
        try:
            with st.spinner(f"{text} …", show_time=False):
                action()
        except TutelageError as error:
            st.toast(str(error), icon=":material/error:")
        else:
            st.rerun()


def _show_figures(run: pb.Run, history: RunHistory) -> None:
    progress = run.progress
    mean = f"{progress.mean_return:.1f}" if progress.HasField("mean_return") else "–"
    best = max((e.mean_return for e in history.evaluations), default=None)
    figures = {
        "Training return, last 100": mean,
        "Episodes": f"{len(history.episodes):,}",
        "Best evaluation": "–" if best is None else f"{best:.1f}",
        "Published": ", ".join(f"v{version}" for version in run.published_versions) or "–",
    }
    for column, (label, value) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(label, value)


def _show_curves(history: RunHistory) -> None:
    if history.episodes:
        st.markdown("**Episode returns** and the mean of the last 100")
        st.altair_chart(charts.returns_chart(history), key="returns")
    shown: list[tuple[str, charts.Chart]] = []
    if history.evaluations:
        shown.append(("Evaluation and published versions", charts.evaluations_chart(history)))
    for name, title, colour in (
        ("loss", "Loss", charts.AMBER),
        ("epsilon", "ε", charts.TEAL),
        ("entropy", "Entropy", charts.TEAL),
    ):
        if name in history.metrics:
            shown.append((title, charts.metric_chart(history.metrics[name], title, colour)))
    if not shown:
        return
    for column, (title, chart) in zip(st.columns(len(shown)), shown, strict=True):
        column.markdown(f"**{title}**")
        column.altair_chart(chart, key=f"chart-{title}")
