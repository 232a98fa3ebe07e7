"""`python -m services.inference`: the inference service, configured by TUTELAGE_ variables."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings

from services.common.errors import TutelageError
from services.common.settings import load
from services.common.telemetry import configure_logging, serve_metrics, traces_wanted
from services.inference.memory import share_arenas
from services.inference.service import InferenceService
from services.inference.settings import InferenceSettings


async def serve(settings: InferenceSettings) -> None:
    """Run the service until it is told to stop."""
    if settings.inference_metrics_port:
        serve_metrics(settings.inference_metrics_port, settings.host)
    traces = traces_wanted("inference", os.environ)
    await InferenceService(settings, traces).serve()


def main() -> None:
    """Run the service; a setting or port that cannot be is one line on stderr and exit code 1."""
    try:
        share_arenas()
        settings = load(InferenceSettings)
        configure_logging("inference", settings.log_format, settings.log_level)
        # Sums of squares tell what is finite; that one may overflow is known, and looked into.
        warnings.filterwarnings("ignore", "overflow encountered in dot", RuntimeWarning)
        asyncio.run(serve(settings))
    except TutelageError as error:
        sys.exit(f"inference: {error}")


if __name__ == "__main__":
    main()
