"""`python -m services.inference`: the inference service, configured by TUTELAGE_ variables."""

from __future__ import annotations

import asyncio
import sys
import warnings

from services.common.errors import TutelageError
from services.common.settings import load
from services.common.telemetry import configure_logging, serve_metrics
from services.inference.memory import share_arenas
from services.inference.service import InferenceService
from services.inference.settings import InferenceSettings
from services.inference.trials import Trials


async def serve(settings: InferenceSettings, trials: Trials) -> None:
    """Run the service until it is told to stop."""
    if settings.inference_metrics_port:
        serve_metrics(settings.inference_metrics_port, settings.host)
    await InferenceService(settings, trials).serve()


def main() -> None:
    """Run the service; a setting or port that cannot be is one line on stderr and exit code 1."""
    try:
        share_arenas()
        settings = load(InferenceSettings)
        configure_logging("inference", settings.log_format, settings.log_level)
        # Sums of squares tell what is finite; that one may overflow is known, and looked into.
        warnings.filterwarnings("ignore", "overflow encountered in dot", RuntimeWarning)
        trials = settings.trials()
        trials.fork()  # while no thread does anything yet
        asyncio.run(serve(settings, trials))
    except TutelageError as error:
        sys.exit(f"inference: {error}")


if __name__ == "__main__":
    main()
