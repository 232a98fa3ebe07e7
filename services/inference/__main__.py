"""`python -m services.inference`: the inference service, configured by TUTELAGE_ variables.

With TUTELAGE_INFERENCE_WORKERS it starts itself so many times over, each with arguments that say
which of them it is and on which port.
"""

from __future__ import annotations

import argparse
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
from services.inference.trials import Trials
from services.inference.workers import run_workers


async def serve(settings: InferenceSettings, trials: Trials) -> None:
    """Run the service until it is told to stop."""
    if settings.inference_metrics_port:
        serve_metrics(settings.inference_metrics_port, settings.host)
    traces = traces_wanted("inference", os.environ)
    await InferenceService(settings, trials, traces).serve()


def main() -> None:
    """Run the service; a setting or port that cannot be is one line on stderr and exit code 1."""
    arguments = _arguments()
    try:
        share_arenas()
        settings = load(InferenceSettings)
        configure_logging("inference", settings.log_format, settings.log_level)
        if arguments.worker is not None:
            settings = settings.as_worker(arguments.worker, arguments.port)
        elif settings.inference_workers > 1:
            address = settings.server_options().address
            ends_s = settings.inference_drain_s + settings.grace_s
            sys.exit(run_workers(address, settings.inference_workers, ends_s))
        # Sums of squares tell what is finite; that one may overflow is known, and looked into.
        warnings.filterwarnings("ignore", "overflow encountered in dot", RuntimeWarning)
        trials = settings.trials()
        trials.fork()  # while no thread does anything yet
        asyncio.run(serve(settings, trials))
    except TutelageError as error:
        sys.exit(f"inference: {error}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="inference", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
