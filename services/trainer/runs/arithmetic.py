"""How torch computes while a run is at work, given back as it was found where torch can tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def arithmetic(*, deterministic: bool) -> Iterator[None]:
    """Compute in one thread, with denormal numbers taken for zero.

    Args:
        deterministic: refuse operations whose results may differ from one time to the next.
    """
    torch.set_num_threads(1)  # small networks: threads cost more than they bring
    torch.use_deterministic_algorithms(deterministic)
    # Nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Of units that are never active Adam's moments shrink to denormal numbers, on which processors
    # take many times as long: a step of 67,000 parameters 3.5 ms in place of 0.2.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        # The thread's setting, which anything else in the process would see: numpy, hypothesis.
        torch.set_flush_denormal(False)
