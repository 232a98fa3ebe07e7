"""The script that Streamlit runs for every visit: which pages there are."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from services.feedback.app import label, policy, reward_model, training

FOLDER = Path(__file__).parent
SIDEBAR_PX = 230
CSS = """
<style>
[data-testid="stMainBlockContainer"] { padding: 2.4rem 2.5rem 1.5rem; max-width: 1240px; }
h1 { font-size: 1.9rem !important; padding: 0.2rem 0 0.4rem !important; }
[data-testid="stMetricValue"] { font-size: 1.6rem; }
/* What refreshes every second must not fade while it does. */
[data-stale="true"] { opacity: 1 !important; transition: none !important; }
</style>
"""

st.set_page_config(
    page_title="Tutelage",
    page_icon=str(FOLDER / "icon.svg"),
    layout="wide",
    initial_sidebar_state=SIDEBAR_PX,
)
st.logo(str(FOLDER / "logo.svg"), size="large", icon_image=str(FOLDER / "icon.svg"))
st.html(CSS)
home = st.Page(label.page, title="Label", icon=":material/compare:", default=True)


def _go_home() -> None:
    """The default page has no address but "/"; who asks for /label means it too."""
    st.switch_page(home, query_params=st.query_params.to_dict())


st.navigation(
    [
        home,
        st.Page(_go_home, title="Label", url_path="label", visibility="hidden"),
        st.Page(training.page, title="Training", icon=":material/show_chart:", url_path="training"),
        st.Page(policy.page, title="Policy", icon=":material/smart_toy:", url_path="policy"),
        st.Page(
            reward_model.page,
            title="Reward model",
            icon=":material/fact_check:",
            url_path="reward-model",
        ),
    ]
).run()
