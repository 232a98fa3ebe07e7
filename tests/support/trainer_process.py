"""The trainer as a real process, for tests that talk to it over real gRPC."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.ports import free_port
from tutelage.v1 import training_pb2 as pb
from tutelage.v1.training_pb2_grpc import TrainingServiceStub

START_S = 60.0
WAIT_S = 120.0
ENDED = (pb.RUN_STATUS_SUCCEEDED, pb.RUN_STATUS_STOPPED, pb.RUN_STATUS_FAILED)

# CartPole, learnt badly but soon.
TINY = {
    "network.hidden": "[8]",
    "network.layer_norm": "false",
    "replay.min_replay_size": "100",
    "evaluation.episodes": "2",
    "evaluation.goal_return": "null",
    "dqn.env_steps_per_update": "16",
}
SHORT = TINY | {
    "dqn.total_env_steps": "600",
    "evaluation.period": "400",
    "checkpoint.period": "200",
}
ENDLESS = TINY | {
    "dqn.total_env_steps": "100000000",
    "evaluation.period": "100000000",
    "checkpoint.period": "500",
}


class TrainerProcess:
    """`python -m services.trainer` on a free port; ready when made."""

    def __init__(self, folder: Path, redis_url: str, **settings: object) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        own = {key: value for key, value in os.environ.items() if not key.startswith("TUTELAGE_")}
        variables = {
            "data_dir": folder,
            "redis_url": redis_url,
            "trainer_address": self.address,
            "log_format": "json",
            "ready_runs": 0,
            **settings,
        }
        self.folder, self._log = folder, folder / "trainer.log"
        with self._log.open("a") as stderr:
            self.process = psutil.Popen(
                [sys.executable, "-m", "services.trainer"],
                env=own | {f"TUTELAGE_{key.upper()}": str(v) for key, v in variables.items()},
                stderr=stderr,
            )
        self.channel = grpc.insecure_channel(self.address)
        self.stub = TrainingServiceStub(self.channel)
        try:
            self._wait_until_serving()
        except BaseException:
            self.stop()
            raise

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def start(
        self, overrides: dict[str, str], preset: str = "cartpole-dqn", request_id: str = ""
    ) -> str:
        """Queue a run; its id."""
        request = pb.StartRunRequest(preset=preset, overrides=overrides, request_id=request_id)
        return str(self.stub.StartRun(request).run.run_id)

    def run(self, run_id: str) -> pb.Run:
        """A run's state."""
        return self.stub.GetRun(pb.GetRunRequest(run_id=run_id)).run

    def stop_run(self, run_id: str) -> pb.Run:
        """Stop a run."""
        return self.stub.StopRun(pb.StopRunRequest(run_id=run_id)).run

    def events(self, run_id: str, after: int = 0, follow: bool = False) -> Iterator[pb.RunEvent]:
        """A run's history."""
        request = pb.WatchRunRequest(run_id=run_id, after_sequence=after, follow=follow)
        for reply in self.stub.WatchRun(request, timeout=WAIT_S):
            yield from reply.events

    def wait_for_event(
        self, run_id: str, wanted: Callable[[pb.RunEvent], bool], after: int = 0
    ) -> pb.RunEvent:
        """The first event that is wanted."""
        for event in self.events(run_id, after, follow=True):
            if wanted(event):
                return event
        raise AssertionError(f"the run ended before that; log:\n{self.log}")

    def wait_until_ended(self, run_id: str) -> pb.Run:
        """Follow a run to its end."""
        for _ in self.events(run_id, follow=True):
            pass
        return self.run(run_id)

    def worker(self) -> psutil.Process:
        """The process of the one run at work."""
        (worker,) = self.process.children()
        return worker

    def stop(self) -> int:
        """End it as an operator would; its exit code."""
        self.channel.close()
        if self.process.is_running():
            self.process.terminate()
        return int(self.process.wait(timeout=60))

    def kill(self) -> None:
        """End it as a crash would."""
        self.channel.close()
        self.process.kill()
        self.process.wait()

    def _wait_until_serving(self) -> None:
        health = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest(service="tutelage.v1.TrainingService")
        deadline = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, self.log
            try:
                status = health.Check(request, timeout=5, wait_for_ready=True).status
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                assert time.monotonic() < deadline, self.log
            time.sleep(0.05)


def is_message(text: str) -> Callable[[pb.RunEvent], bool]:
    """Whether an event is a message with this text in it."""
    return lambda event: text in event.message.text


def is_checkpoint(event: pb.RunEvent) -> bool:
    """Whether an event is a checkpoint."""
    return event.WhichOneof("event") == "checkpoint_saved"
