"""A peer's side of the comparison: a round of measurements for every line on standard input.

Runs in the peer's own environment, so it needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 20  # also draws what was fetched ahead while the others were measured


def serve_rounds(
    insert: Callable[[], Any],
    rows: int,
    inserts: int,
    sample: Callable[[], Any],
    samples: int,
) -> None:
    """Say `{}` when ready; then answer each line with the figures of one round, as JSON.

    Args:
        insert: puts `rows` rows into the replay; called `inserts` times a round.
        sample: draws a batch of 256; called `samples` times a round.
    """
    answers = _claim_stdout()
    insert()
    _answer(answers, {})
    for _ in sys.stdin:
        insert_s = seconds_a_call(insert, inserts)
        for _ in range(WARM_UP):
            sample()
        figures = {
            "insert_rows_per_s": rows / insert_s,
            "sample_256_us": 1e6 * seconds_a_call(sample, samples),
        }
        _answer(answers, figures)


def seconds_a_call(call: Callable[[], Any], times: int) -> float:
    """Mean over so many calls."""
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def _claim_stdout() -> int:
    """Standard output for the answers alone; what libraries print goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _answer(answers: int, figures: dict[str, float]) -> None:
    os.write(answers, json.dumps(figures).encode() + b"\n")
