"""The three services the pages talk to, and what a page shows when one does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import streamlit as st

from services.common.settings import load
from services.feedback.settings import FeedbackSettings
from tutelage import Client, FeedbackClient, TrainingClient, TutelageError, errors

RETRY_S = 2.0
PROBE_S = 1.0
TASKS_KEPT_S = 15.0  # labelling must not wait for services it does not need
AWAY = (errors.Unavailable, errors.DeadlineExceeded)


@dataclass(frozen=True)
class Connection:
    """One client for each service, shared by all visitors; they are thread-safe."""

    feedback: FeedbackClient
    training: TrainingClient
    policies: Client
    settings: FeedbackSettings


@st.cache_resource(show_spinner=False)
def connect() -> Connection:
    """The connections of the addresses in the settings; each opens when it is first used."""
    settings = load(FeedbackSettings)
    return Connection(
        feedback=FeedbackClient(settings.feedback_address),
        training=TrainingClient(settings.trainer_address),
        policies=Client(settings.inference_address, credentials=settings.inference_credentials()),
        settings=settings,
    )


@contextmanager
def needing_feedback(connection: Connection, note: str = "") -> Iterator[None]:
    """The block needs the feedback service; see `_needing`."""

    def probe() -> object:
        return connection.feedback.get_progress(timeout_s=PROBE_S)

    with _needing("feedback service", connection.settings.feedback_address, probe, note):
        yield


@contextmanager
def needing_trainer(connection: Connection) -> Iterator[None]:
    """The block needs the trainer; see `_needing`."""

    def probe() -> object:
        return connection.training.list_runs(timeout_s=PROBE_S)

    with _needing("trainer", connection.settings.trainer_address, probe):
        yield


@contextmanager
def needing_policies(connection: Connection) -> Iterator[None]:
    """The block needs the inference service; see `_needing`."""

    def probe() -> object:
        return connection.policies.policies(timeout_s=PROBE_S)

    with _needing("inference service", connection.settings.inference_address, probe):
        yield


@contextmanager
def _needing(
    name: str, address: str, probe: Callable[[], object], note: str = ""
) -> Iterator[None]:
    """Show a clear sentence when a service fails in the block, and go on when it is back.

    Args:
        probe: a cheap call of the service, tried until it succeeds.
        note: one more sentence for the reader.
    """
    try:
        yield
    except AWAY:
        st.warning(
            f"The {name} at `{address}` does not answer; `make run` starts it. {note} "
            "This page goes on by itself when it is back.",
            icon=":material/cloud_off:",
        )
        _resume_when(probe)
    except TutelageError as error:
        st.error(str(error), icon=":material/error:")


@st.fragment(run_every=RETRY_S)
def _resume_when(probe: Callable[[], object]) -> None:
    try:
        probe()
    except AWAY:
        return
    except TutelageError:
        pass  # it answers, which is all that was asked
    st.rerun()


def task_of(connection: Connection) -> str:
    """The task whose labels are shown: the only one known, or the one chosen in the sidebar.

    Names come from the policies and runs there are; empty where those services are away or
    know none, which the feedback service takes for its only task.
    """
    names = _known_tasks(connection)
    if len(names) < 2:
        return names[0] if names else ""
    chosen: str = st.sidebar.selectbox("Task", names, key="task", persist_state="session")
    return chosen


@st.cache_data(ttl=TASKS_KEPT_S, show_spinner=False)
def _known_tasks(_connection: Connection) -> list[str]:
    names: set[str] = set()
    for ask in (_policy_names, _run_policies):
        try:
            names.update(ask(_connection))
        except TutelageError:
            continue
    return sorted(names)


def _policy_names(connection: Connection) -> list[str]:
    return [policy.name for policy in connection.policies.policies(timeout_s=PROBE_S)]


def _run_policies(connection: Connection) -> list[str]:
    return [run.policy for run in connection.training.list_runs(timeout_s=PROBE_S)]
