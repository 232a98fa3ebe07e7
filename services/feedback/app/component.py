"""Small browser components: HTML, CSS and JavaScript that lie beside this file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

FOLDER = Path(__file__).parent


def component(name: str) -> Callable[..., Any]:
    """The component of name.html, name.css and name.js; call what is returned to show it."""
    html, css, js = (
        (FOLDER / f"{name}.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
    )
    shown: Callable[..., Any] = st.components.v2.component(
        f"tutelage_{name}", html=html, css=css, js=js
    )
    return shown
