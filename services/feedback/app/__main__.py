"""`python -m services.feedback.app`: serves the pages until it is told to stop."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from streamlit.web import bootstrap

from services.common.errors import ResourceExhausted, TutelageError
from services.common.ports import port_is_free
from services.common.settings import load
from services.feedback.settings import FeedbackSettings

SCRIPT = Path(__file__).parent / "main.py"


def options(settings: FeedbackSettings) -> dict[str, object]:
    """Streamlit's options: quiet, offline, and alike on every machine."""
    return {
        "server_address": settings.host,
        "server_port": settings.app_port,
        "server_headless": True,
        "server_showEmailPrompt": False,
        "server_fileWatcherType": "none",
        "server_runOnSave": False,
        "browser_gatherUsageStats": False,
        "client_toolbarMode": "minimal",
        "client_showErrorDetails": "none",
        # The welcome would look up this machine's public address on the internet.
        "logger_hideWelcomeMessage": True,
        "logger_level": "warning",
        # One for each: a colour set for both would take the dark theme away.
        "theme_light_primaryColor": "#0d9488",
        "theme_dark_primaryColor": "#14b8a6",
    }


def main() -> None:
    """Exit with 0 after a signal to stop, with 1 and one clear line when it cannot serve."""
    try:
        settings = load(FeedbackSettings)
        if not port_is_free(settings.app_port, settings.host):
            raise ResourceExhausted(
                f"cannot listen on {settings.host}:{settings.app_port}: the port is taken; "
                "set TUTELAGE_APP_PORT to another"
            )
    except TutelageError as error:
        sys.exit(f"app: {error}")
    # Environments are drawn into memory; there may be no screen.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    flags = options(settings)
    bootstrap.load_config_options(flags)
    sys.stderr.write(f"app: http://{settings.host}:{settings.app_port}\n")
    bootstrap.run(str(SCRIPT), False, [], flags)


if __name__ == "__main__":
    main()
