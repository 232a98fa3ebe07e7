"""Stable-Baselines3, trained in an environment of its own; see train_peers/sb3_train.py."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peer_process import Environment, PeerFailed, python_of

# Apart from the replay benchmark's, which needs no environments to train in.
SB3 = Environment(
    "sb3-training",
    (
        "torch==2.13.0",
        "stable-baselines3==2.9.2",
        "gymnasium[box2d,classic-control]==1.4.0",
        "box2d==2.3.10",
        "numpy==2.4.6",
    ),
)
SCRIPT = Path(__file__).parent / "train_peers" / "sb3_train.py"


def train_sb3(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the script answers.

    Raises:
        PeerFailed: when it cannot be installed, or ends without an answer.
    """
    return ask([str(python_of(SB3)), "-W", "ignore", str(SCRIPT)], request)


def ask(command: list[str], request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a process with one thread: a line of JSON, the last on standard output.

    Raises:
        PeerFailed: when it ends without one.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise PeerFailed((done.stderr.strip().splitlines() or ["it left no message"])[-1])
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer
