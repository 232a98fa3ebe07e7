"""What the Training page says of runs beside their curves: how far they are, what sets them
apart, and buttons that stop and resume them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import streamlit as st

from services.feedback.app.comparing import SEED, Line, differences
from services.feedback.app.run_history import RunHistory
from tutelage import TrainingClient, TutelageError
from tutelage.v1 import training_pb2 as pb

BADGES = {
    pb.RUN_STATUS_QUEUED: ("Queued", "gray", ":material/schedule:"),
    pb.RUN_STATUS_RUNNING: ("Running", "blue", ":material/play_circle:"),
    pb.RUN_STATUS_SUCCEEDED: ("Succeeded", "green", ":material/check_circle:"),
    pb.RUN_STATUS_STOPPED: ("Stopped", "orange", ":material/stop_circle:"),
    pb.RUN_STATUS_FAILED: ("Failed", "red", ":material/error:"),
}
ENDED = (pb.RUN_STATUS_SUCCEEDED, pb.RUN_STATUS_STOPPED, pb.RUN_STATUS_FAILED)
RESUMABLE = (pb.RUN_STATUS_STOPPED, pb.RUN_STATUS_FAILED)
MESSAGES_SHOWN = 3
ROW_PX = 35
NAME_PX = 225
MOST_ROWS = 12


def status_words(run: pb.Run) -> str:
    """`running`, `queued, 2 ahead`, …"""
    name = _badge(run)[0].lower()
    if run.queue_place > 1:
        return f"{name}, {run.queue_place - 1} ahead"
    return f"{name}, next in turn" if run.queue_place else name


def show_one(client: TrainingClient, run: pb.Run, history: RunHistory) -> None:
    """A run's status, progress and figures, and the button that stops or resumes it."""
    badge, bar, button = st.columns([2, 9, 2], vertical_alignment="center")
    _, colour, icon = _badge(run)
    words = status_words(run)
    badge.badge(words[0].upper() + words[1:], icon=icon, color=colour)  # type: ignore[arg-type]
    if run.HasField("progress"):
        bar.progress(_share(run), text=_progress_text(run))
    with button:
        _offer_change(client, run)
    if run.error:
        st.error(run.error, icon=":material/error:")
    if history.episodes or history.evaluations:
        _show_totals(run, history)


def _show_totals(run: pb.Run, history: RunHistory) -> None:
    figures = {
        "Training return, last 100": _mean_return(run),
        "Episodes": f"{len(history.episodes):,}",
        "Best evaluation": _best(history),
        "Published": _versions(run) or "–",
    }
    for column, (label, value) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(label, value)


def show_several(
    client: TrainingClient,
    runs: Sequence[pb.Run],
    histories: Mapping[str, RunHistory],
    each: Sequence[Line],
) -> None:
    """A row for each run: how far it is, what it has come to, how fast it goes."""
    rows = [
        {
            "Run": line.name,
            "Status": status_words(run),
            "Done": round(_share(run), 2),
            "Steps": run.progress.done,
            "Return (100)": _known(run.progress, "mean_return"),
            "Best evaluation": max(
                (e.mean_return for e in histories[run.run_id].evaluations), default=None
            ),
            "Steps/s": _speed(run, histories[run.run_id]),
            "Time": _time(run, histories[run.run_id]),
            "Versions": _versions(run),
        }
        for line, run in zip(each, runs, strict=True)
    ]
    columns = st.column_config
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        height=_height(len(rows)),
        placeholder="",
        key="compared",
        column_config={
            "Run": columns.TextColumn(width=NAME_PX),
            "Done": columns.ProgressColumn(min_value=0, max_value=1, format="percent"),
            "Steps": columns.NumberColumn(format="localized"),
            "Return (100)": columns.NumberColumn(format="%.1f"),
            "Best evaluation": columns.NumberColumn(format="%.1f"),
            "Steps/s": columns.NumberColumn(format="%,.0f"),
        },
    )
    changeable = [
        (line.name, run)
        for line, run in zip(each, runs, strict=True)
        if run.status not in ENDED or run.status in RESUMABLE
    ]
    if changeable:
        with st.popover("Stop or resume", icon=":material/tune:"):
            for name, run in changeable:
                text, button = st.columns([3, 2], vertical_alignment="center")
                text.markdown(f"{name} · {status_words(run)}")
                with button:
                    _offer_change(client, run)


def show_differences(runs: Sequence[pb.Run], each: Sequence[Line]) -> None:
    """The settings in which runs differ, a column for each."""
    differing = differences(runs)
    if not differing.keys() - {SEED}:
        but = " but for the seed" if differing else ""
        st.caption(f"All settings of these runs are alike{but}.")
        return
    one = len(differing) == 1
    title = "1 setting differs" if one else f"{len(differing)} settings differ"
    with st.expander(title, icon=":material/difference:", expanded=len(differing) <= MOST_ROWS):
        frame = pd.DataFrame(
            list(differing.values()),
            index=pd.Index(list(differing), name="setting"),
            columns=[line.name for line in each],
        )
        st.dataframe(frame, height=_height(len(frame)), key="differences")


def show_messages(runs: Sequence[pb.Run], histories: Mapping[str, RunHistory]) -> None:
    """The last few things that each run has to say, and why one failed."""
    for run in runs:
        for message in histories[run.run_id].messages[-MESSAGES_SHOWN:]:
            show: Callable[[str], object] = {"warning": st.warning, "error": st.error}.get(
                message.level, st.caption
            )
            show(message.text if len(runs) == 1 else f"{run.run_id}: {message.text}")
        if run.error and len(runs) > 1:
            st.error(f"{run.run_id}: {run.error}", icon=":material/error:")


def _badge(run: pb.Run) -> tuple[str, str, str]:
    return BADGES.get(run.status, ("Unknown", "gray", ":material/help:"))


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
    if whole < 90:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _mean_return(run: pb.Run) -> str:
    mean = _known(run.progress, "mean_return")
    return "–" if mean is None else f"{mean:.1f}"


def _best(history: RunHistory) -> str:
    best = max((e.mean_return for e in history.evaluations), default=None)
    return "–" if best is None else f"{best:.1f}"


def _versions(run: pb.Run) -> str:
    """`v3`, `v3, v4`, `v3 … v9`."""
    names = [f"v{version}" for version in run.published_versions]
    return ", ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]}"


def _known(progress: pb.RunProgress, name: str) -> float | None:
    return float(getattr(progress, name)) if progress.HasField(name) else None  # type: ignore[arg-type]


def _speed(run: pb.Run, history: RunHistory) -> float | None:
    """Steps a second: of late while it runs, on average when it has ended."""
    if run.status == pb.RUN_STATUS_RUNNING:
        return run.progress.rate or None
    return run.progress.done / history.worked_s if history.worked_s else None


def _time(run: pb.Run, history: RunHistory) -> str:
    if run.status == pb.RUN_STATUS_RUNNING and run.progress.remaining_s:
        return f"{_duration(run.progress.remaining_s)} left"
    return f"took {_duration(history.worked_s)}" if history.worked_s else ""


def _offer_change(client: TrainingClient, run: pb.Run) -> None:
    if run.status not in ENDED:
        _button("Stop", ":material/stop:", run, lambda: client.stop_run(run.run_id))
    elif run.status in RESUMABLE:
        _button("Resume", ":material/play_arrow:", run, lambda: client.resume_run(run.run_id))


def _button(text: str, icon: str, run: pb.Run, action: Callable[[], object]) -> None:
    if st.button(text, icon=icon, width="stretch", key=f"{text}-{run.run_id}"):
        try:
            with st.spinner(f"{text} …", show_time=False):
                action()
        except TutelageError as error:
            st.toast(str(error), icon=":material/error:")
        else:
            st.rerun()


def _height(rows: int) -> int:
    return ROW_PX * (min(rows, MOST_ROWS) + 1) + 2
