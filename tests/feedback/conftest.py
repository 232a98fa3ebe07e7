from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from feedback_rig import FeedbackProcess, start_feedback


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., FeedbackProcess]]:
    """Starts services on this test's own folder; all are stopped at its end."""
    running: list[FeedbackProcess] = []

    def starter(*, port: int = 0, **settings: str) -> FeedbackProcess:
        running.append(start_feedback(tmp_path, port=port, **settings))
        return running[-1]

    yield starter
    for process in running:
        process.stop()


@pytest.fixture(scope="session")
def shared_feedback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedbackProcess]:
    """One service for many tests, which keep apart by using a policy each."""
    process = start_feedback(tmp_path_factory.mktemp("feedback"))
    yield process
    process.stop()


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> str:
    """A policy name of this test's own."""
    name = request.node.name.lower().replace("[", "-").replace("]", "")
    return "".join(c if c.isalnum() else "-" for c in name)[:63]
