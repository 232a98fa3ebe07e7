"""Fakes for the command line's tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_platform import FakePlatform


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePlatform]:
    """The three services, answering where the commands look for them; cartpole is served."""
    (tmp_path / "served").touch()
    fake = FakePlatform(tmp_path)
    for name in ("INFERENCE", "TRAINER", "FEEDBACK"):
        monkeypatch.setenv(f"TUTELAGE_{name}_ADDRESS", fake.address)
    yield fake
    fake.stop()


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Have programs that tests start hear Ctrl-C, as those that a person starts do.

    A shell script gives what it starts with `&` an ignored SIGINT, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
