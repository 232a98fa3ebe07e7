"""Starts, stops and follows training runs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping

from tutelage._calls import Connection
from tutelage.v1 import training_pb2 as pb
from tutelage.v1 import training_pb2_grpc

ADMIN_S = 30.0
STOP_S = 120.0


class TrainingClient(Connection):
    """A connection to TrainingService. Thread-safe; make one and keep it.

    Every method raises a `tutelage.errors.TutelageError`.

    Args:
        address: host:port.
    """

    def __init__(self, address: str = "127.0.0.1:50052") -> None:
        super().__init__(address)
        self._stub = training_pb2_grpc.TrainingServiceStub(self._channel)

    def start_run(
        self,
        preset: str,
        overrides: Mapping[str, str] | None = None,
        *,
        seed: int | None = None,
        request_id: str | None = None,
        timeout_s: float = ADMIN_S,
    ) -> pb.Run:
        """Queue a run.

        Args:
            overrides: values by dotted key, such as {"dqn.learning_rate": "0.0003"}.
            request_id: the same token returns the same run. Default: a new one.
        """
        request = pb.StartRunRequest(
            preset=preset,
            overrides=overrides or {},
            seed=seed,
            request_id=request_id or uuid.uuid4().hex,
        )
        return self._call(self._stub.StartRun, request, timeout_s).run

    def stop_run(self, run_id: str, *, timeout_s: float = STOP_S) -> pb.Run:
        """Stop a run once it has saved a checkpoint, and wait for that."""
        return self._call(self._stub.StopRun, pb.StopRunRequest(run_id=run_id), timeout_s).run

    def resume_run(self, run_id: str, *, timeout_s: float = ADMIN_S) -> pb.Run:
        """Queue a run again, from its last checkpoint."""
        return self._call(self._stub.ResumeRun, pb.ResumeRunRequest(run_id=run_id), timeout_s).run

    def get_run(self, run_id: str, *, timeout_s: float = ADMIN_S) -> pb.Run:
        """The state of a run."""
        return self._call(self._stub.GetRun, pb.GetRunRequest(run_id=run_id), timeout_s).run

    def list_runs(
        self, policy: str = "", *, limit: int = 1_000, timeout_s: float = ADMIN_S
    ) -> list[pb.Run]:
        """Runs, newest first; of one policy if it is named."""
        request = pb.ListRunsRequest(policy=policy, limit=limit)
        return list(self._call(self._stub.ListRuns, request, timeout_s).runs)

    def presets(self, *, timeout_s: float = ADMIN_S) -> list[pb.Preset]:
        """What runs can be started from, by name."""
        return list(self._call(self._stub.ListPresets, pb.ListPresetsRequest(), timeout_s).presets)

    def watch_run(
        self,
        run_id: str,
        *,
        after_sequence: int = 0,
        follow: bool = True,
        timeout_s: float | None = None,
    ) -> Iterator[pb.RunEvent]:
        """A run's events in order, from the first or from after a sequence number.

        When the trainer goes away the iterator raises Unavailable; ask again with the last
        event's sequence to go on without a gap.

        Args:
            follow: stay until the run has ended, instead of until its newest event.
            timeout_s: seconds the whole may take; None for as long as the run does.
        """
        request = pb.WatchRunRequest(run_id=run_id, after_sequence=after_sequence, follow=follow)
        for reply in self._stream(self._stub.WatchRun, request, timeout_s):
            yield from reply.events
