"""The Policy page: watch a version act, live through Act, and decide which one is served."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import numpy.typing as npt
import pandas as pd
import streamlit as st

from services.feedback.app import charts
from services.feedback.app.acting import Choice, Stage
from services.feedback.app.action_bars import names
from services.feedback.app.component import component
from services.feedback.app.connection import Connection, connect, needing_policies
from tutelage import Client, Decisions, TutelageError
from tutelage.v1 import policy_pb2 as pb

STABLE = "stable"
REFRESH_S = 0.3
MOST_STEPS = 30  # a refresh, so that a slow one does not make the next slower still
# A forgotten tab must not keep the inference service busy for ever.
PLAY_S = 300.0
ROW_PX = 35
MOST_TABLE_PX = 220

stage_view = component("stage")


@dataclasses.dataclass
class Playing:
    """One visitor's stage: the environment, whether it runs, since when, and the newest frames.

    batch: goes up with each set of frames, so that the browser shows each once.
    """

    stage: Stage
    on: bool = True
    since: float = dataclasses.field(default_factory=time.monotonic)
    last: float = dataclasses.field(default_factory=time.monotonic)
    batch: int = 0
    frames: list[dict[str, object]] = dataclasses.field(default_factory=list)

    def steps_due(self) -> int:
        """Steps that the environment's pace asks for since the last call; at least one."""
        now = time.monotonic()
        elapsed, self.last = now - self.last, now
        return max(1, min(MOST_STEPS, round(elapsed * self.stage.frames_per_s)))

    def play(self, client: Client, choice: Choice) -> None:
        """Take the steps that are due."""
        frames = [self.stage.step(client, choice) for _ in range(self.steps_due())]
        self.frames = [dataclasses.asdict(frame) for frame in frames]
        self.batch += 1

    def switch(self) -> None:
        """Pause, or go on."""
        self.on = not self.on
        self.since = self.last = time.monotonic()


def page() -> None:
    """Show the page."""
    connection = connect()
    st.title("Policy")
    with needing_policies(connection):
        policies = connection.policies.policies()
        if not policies:
            st.info(
                "No policy has been published yet. Start a run on the Training page.",
                icon=":material/info:",
            )
            return
        policy = _choose_policy(policies)
        left, right = st.columns([8, 5], gap="large")
        with right:
            choice = _choose(policy)
            _show_versions(connection.policies, policy, choice)
        with left:
            _show_stage(connection, policy, choice)
        if policy.spec.observation.n:
            _show_values(connection.policies, policy, choice)


def _choose_policy(policies: list[pb.Policy]) -> pb.Policy:
    by_name = {policy.name: policy for policy in policies}
    if len(by_name) == 1:
        return policies[0]
    name: str = st.selectbox("Policy", list(by_name), key="policy", persist_state="session")
    return by_name[name]


def _choose(policy: pb.Policy) -> Choice:
    """Version or alias, and how actions are taken."""
    aliases = {f"alias:{name}": f"{name} (v{v})" for name, v in sorted(policy.aliases.items())}
    versions = {f"{v.version}": f"v{v.version}" for v in reversed(policy.versions)}
    labels = aliases | versions
    default = f"alias:{STABLE}"
    wanted: str = st.selectbox(
        "Version",
        list(labels),
        index=list(labels).index(default) if default in labels else 0,
        format_func=lambda key: labels.get(key, key),
        key=f"version-{policy.name}",
    )
    drawable = policy.spec.distribution != pb.DISTRIBUTION_DETERMINISTIC
    selection = st.segmented_control(
        "Actions",
        ["Greedy", "Sampled"] if drawable else ["Greedy"],
        default="Greedy",
        required=True,
        width="stretch",
    )
    temperature = st.slider(
        "Temperature",
        0.05,
        5.0,
        1.0,
        0.05,
        help="Divides the policy's values before they become probabilities; multiplies the "
        "variance where actions are numbers.",
    )
    is_alias = wanted.startswith("alias:")
    return Choice(
        policy=policy.name,
        space=policy.spec.action,
        version=0 if is_alias else int(wanted),
        alias=wanted.removeprefix("alias:") if is_alias else STABLE,
        sample=selection == "Sampled",
        temperature=temperature,
        masked=policy.spec.masked,
    )


def _show_versions(client: Client, policy: pb.Policy, choice: Choice) -> None:
    pointing = {v: name for name, v in policy.aliases.items() if name != STABLE}
    stable = policy.aliases.get(STABLE, 0)
    rows = [
        {
            "Version": f"v{v.version}",
            "Serves as": STABLE if v.version == stable else pointing.get(v.version, ""),
            "Algorithm": v.algorithm,
            "Return": v.mean_return,
        }
        for v in reversed(policy.versions)
    ]
    st.dataframe(
        rows,
        hide_index=True,
        height=min(MOST_TABLE_PX, ROW_PX * (len(rows) + 1) + 3),
        column_config={"Return": st.column_config.NumberColumn(format="%.2f")},
    )
    for version in policy.versions:
        if version.load_error:
            st.warning(f"v{version.version} is not served: {version.load_error}")
    promote, rollback = st.columns(2)
    target = choice.version or policy.aliases.get(choice.alias, 0)
    with promote:
        _button(
            f"Promote v{target}" if target else "Promote",
            ":material/arrow_upward:",
            lambda: client.promote(policy.name, target),
            disabled=target in (0, stable),
        )
    with rollback:
        _button("Roll back", ":material/undo:", lambda: client.rollback(policy.name))


def _button(
    text: str, icon: str, action: Callable[[], pb.SetAliasResponse], *, disabled: bool = False
) -> None:
    if not st.button(text, icon=icon, width="stretch", disabled=disabled):
        return
    try:
        moved = action()
    except TutelageError as error:
        st.error(str(error))
    else:
        st.toast(f"{STABLE} is v{moved.version} now, was v{moved.previous_version}")
        st.rerun()


def _show_stage(connection: Connection, policy: pb.Policy, choice: Choice) -> None:
    try:
        playing = _playing(policy.spec)
    except (gymnasium.error.Error, ImportError) as error:
        st.info(f"{policy.spec.environment} cannot be drawn here: {error}")
        return
    show = st.fragment(_play, run_every=REFRESH_S if playing.on else None)
    show(connection, playing, choice)


def _playing(spec: pb.PolicySpec) -> Playing:
    """The visitor's stage of this environment; another environment's is closed."""
    stages: dict[str, Playing] = st.session_state.setdefault("stages", {})
    wanted = f"{spec.environment} {spec.environment_kwargs}"
    for name in [name for name in stages if name != wanted]:
        stages.pop(name).stage.close()
    if wanted not in stages:
        kwargs = json.loads(spec.environment_kwargs or "{}")
        stages[wanted] = Playing(Stage(spec.environment, random.randrange(1 << 30), kwargs))
    return stages[wanted]


def _show_values(client: Client, policy: pb.Policy, choice: Choice) -> None:
    """The table of action values: of the first version, before training, and of the chosen."""
    st.subheader("Action values")
    columns, chosen = names(policy.spec.action), (choice.version, choice.alias)
    tables = [
        (f"**v{decided.version}**, the {what} one", values)
        for what, asked in (("first", (policy.versions[0].version, "")), ("chosen", chosen))
        for decided, values in [_values(client, policy, *asked)]
    ]
    domain = (
        min(float(values.min()) for _, values in tables),
        max(float(values.max()) for _, values in tables),
    )
    for column, (title, values) in zip(st.columns(2, gap="large"), tables, strict=True):
        with column:
            st.markdown(title)
            st.altair_chart(charts.values_chart(values, columns, domain), key=f"chart of {title}")
            table = pd.DataFrame(values, columns=columns)
            st.dataframe(table.style.format("{:.3f}"), height=MOST_TABLE_PX)


def _values(
    client: Client, policy: pb.Policy, version: int, alias: str
) -> tuple[Decisions, npt.NDArray[np.float64]]:
    """Greedy decisions in every state, and the action values (states, actions) behind them."""
    states = np.arange(policy.spec.observation.n)
    decided = client.act_batch(
        states, policy=policy.name, version=version, alias=alias, probabilities=True
    )
    assert decided.parameters is not None
    return decided, decided.parameters


def _play(connection: Connection, playing: Playing, choice: Choice) -> None:
    with needing_policies(connection):
        if playing.on and time.monotonic() - playing.since > PLAY_S:
            playing.switch()
            st.rerun()
        if playing.on or not playing.frames:
            playing.play(connection.policies, choice)
        stage_view(
            key="stage",
            data={
                "batch": playing.batch,
                "frames": playing.frames,
                "frames_per_s": playing.stage.frames_per_s,
                "names": names(choice.space),
            },
        )
        _show_controls(playing)


def _show_controls(playing: Playing) -> None:
    pause, restart, latency = st.columns([1, 1, 2], vertical_alignment="center")
    text, icon = ("Pause", ":material/pause:") if playing.on else ("Play", ":material/play_arrow:")
    if pause.button(text, icon=icon, width="stretch"):
        playing.switch()
        st.rerun()
    if restart.button("Restart", icon=":material/replay:", width="stretch"):
        playing.stage.reset()
        playing.on = True
        st.rerun()
    stage = playing.stage
    latency.caption(
        f"Act: {stage.latency_ms(0.5):.1f} ms, p99 {stage.latency_ms(0.99):.1f} ms",
        help="Latency of this page's own calls, the newest two hundred.",
    )
