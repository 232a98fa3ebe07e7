"""Follows one run to its end, also across a restart of the trainer."""

from __future__ import annotations

import time

from services.cli.launcher.follow import UNFINISHED, news, outcome
from services.cli.launcher.view import BAD, View
from tutelage import TrainingClient
from tutelage.errors import Unavailable
from tutelage.v1 import training_pb2

RETRY_S = 1.0


def follow_run(client: TrainingClient, run_id: str, view: View) -> training_pb2.Run:
    """Show a run's past and what comes, until it ends; returns it as it then is.

    Raises:
        tutelage.errors.TutelageError: when it cannot be followed at all. A trainer that
            goes away later is waited for.
    """
    run = client.get_run(run_id)
    sequence, waiting = 0, False
    while True:
        try:
            for event in client.watch_run(run_id, after_sequence=sequence):
                sequence, waiting = event.sequence, False
                _show(run_id, event, view)
            run = client.get_run(run_id)
        except Unavailable:
            if not waiting:
                view.say(BAD, "the trainer does not answer; waiting for it")
            waiting = True
        if not waiting and run.status not in UNFINISHED:
            view.end_run(run_id)
            view.say(*outcome(run))
            return run
        time.sleep(RETRY_S)


def _show(run_id: str, event: training_pb2.RunEvent, view: View) -> None:
    if event.HasField("progress"):
        view.progress(run_id, event.progress)
    elif event.HasField("queue_moved"):
        view.waiting(run_id, event.queue_moved.queue_place)
    elif line := news(run_id, event):
        view.say(*line)
