"""The form that starts runs: a preset, some seeds, and values to put in the place of its own."""

from __future__ import annotations

import streamlit as st

from tutelage import TrainingClient, TutelageError
from tutelage.v1 import training_pb2 as pb

MOST_SEEDS = 10
EXAMPLE = "dqn.learning_rate=0.0005"


def offer(client: TrainingClient, chosen_key: str) -> None:
    """Show the button that opens the form.

    Args:
        chosen_key: of the session's state, where the ids of what was started go.
    """
    with st.popover("Start a run", icon=":material/add:", width="stretch"):
        presets = {preset.name: preset for preset in client.presets()}
        name = st.selectbox("Preset", list(presets))
        if name is None:
            st.info("The trainer knows no preset.", icon=":material/info:")
            return
        _describe(presets[name])
        first, count = st.columns(2)
        seed = first.number_input(
            "Seed", min_value=0, value=None, step=1, placeholder="the preset's"
        )
        seeds = count.number_input("Seeds in a row", 1, MOST_SEEDS, 1)
        text = st.text_area("Changed settings, one a line", placeholder=EXAMPLE, height=80)
        with st.expander("All settings of the preset"):
            st.code(presets[name].config_yaml, language="yaml")
        if st.button("Start", type="primary", width="stretch"):
            _start(client, name, None if seed is None else int(seed), int(seeds), text, chosen_key)


def _describe(preset: pb.Preset) -> None:
    facts = [preset.environment, preset.algorithm]
    facts += [f"{preset.env_steps:,} steps at most"] if preset.env_steps else []
    st.caption(f"{preset.description}  \n{' · '.join(fact for fact in facts if fact)}")


def _start(
    client: TrainingClient, preset: str, seed: int | None, seeds: int, text: str, chosen_key: str
) -> None:
    overrides = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        key, equals, value = line.partition("=")
        if not equals:
            st.error(f"`{line}`: expected KEY=VALUE, such as {EXAMPLE}")
            return
        overrides[key.strip()] = value.strip()
    first = seed or 0
    wanted = [seed] if seeds == 1 else range(first, first + seeds)
    try:
        runs = [client.start_run(preset, overrides, seed=one) for one in wanted]
    except TutelageError as error:
        st.error(str(error), icon=":material/error:")
        return
    st.session_state[chosen_key] = [run.run_id for run in runs]
    st.rerun()
