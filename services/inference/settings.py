"""Settings of the inference service. Wrong values refuse to boot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from services.common.errors import InvalidConfig
from services.common.ports import is_loopback
from services.common.server import ServerOptions, Tls
from services.common.server.access import Access, read_tokens
from services.common.server.bootstrap import Transport
from services.common.settings import PlatformSettings, content_of, port_of
from services.inference.canary import CanaryLimits
from services.inference.decision_log import LogLimits
from services.inference.operators import ModelLimits
from services.inference.outcome_stores import OutcomeLimits
from services.inference.session_states import SessionLimits
from services.inference.trials import TrialLimits, Trials

MIB = 1 << 20


class InferenceSettings(PlatformSettings):
    """How policies are served, beside where things are."""

    inference_transport: Transport = Field(
        "auto",
        description="native: connections belong to C++, which hands Python batches; aio: grpc.aio; "
        "auto: native where it has been built.",
    )
    inference_workers: Annotated[int, Field(ge=1, le=256)] = Field(
        1,
        description="Processes that share the port, for machines with cores to spare; each is "
        "dealt connections, loads policies for itself, and has a metrics port, counted from the "
        "first.",
    )
    inference_poll_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        1.0, description="Seconds between two looks at the policy repository."
    )
    inference_retry_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        10.0, description="Seconds before a version that was refused is tried again."
    )
    inference_max_batch: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="Most observations in one run of a model."
    )
    inference_queue_limit: Annotated[int, Field(ge=1)] = Field(
        4096, description="Observations that may wait for one version before calls are refused."
    )
    inference_inline_us: Annotated[float, Field(ge=0)] = Field(
        200.0,
        description="Runs that take longer than this many microseconds leave the event loop "
        "for a thread, so that calls go on arriving.",
    )
    inference_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="Threads for those longer runs; a version uses one at a time."
    )
    inference_policy_threads: Annotated[int, Field(ge=0, le=64)] = Field(
        0,
        description="Of these at most so many at once for the versions of one policy, so that a "
        "slow one leaves some to others; 0: all.",
    )
    inference_intra_op_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Threads onnxruntime uses within one run; more pays only for large models."
    )
    inference_max_loaded: Annotated[int, Field(ge=1, le=1024)] = Field(
        16, description="Versions kept in memory for rollbacks and pinned calls, beside the served."
    )
    inference_max_loaded_mib: Annotated[int, Field(ge=1)] = Field(
        1024,
        description="Memory in MiB that loaded versions may take, about. Beyond it those unused "
        "for longest are unloaded, but none that an alias points at.",
    )
    inference_max_model_mib: Annotated[int, Field(ge=1, le=2047)] = Field(
        256, description="A model file that is larger, or whose tensors are, is refused."
    )
    inference_max_operators: Annotated[int, Field(ge=1)] = Field(
        10_000, description="A model of more operators is refused."
    )
    inference_operators: str = Field(
        "",
        description="Operators that models may use beside the known ones, with commas between, "
        "such as Resize. One that makes shapes of values lets a caller ask for any memory.",
    )
    inference_trial_mib: Annotated[int, Field(ge=16)] = Field(
        1024,
        description="Memory in MiB that a model may take while it is tried, in a process of its "
        "own, before it is served.",
    )
    inference_trial_s: Annotated[int, Field(ge=1, le=3600)] = Field(
        60, description="Seconds of processor time that it may take then."
    )
    inference_max_message_bytes: Annotated[int, Field(ge=1024, le=1024 * MIB)] = Field(
        4 * MIB, description="A larger request is answered RESOURCE_EXHAUSTED."
    )
    inference_metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port on which Prometheus reads /metrics; 0 for none."
    )
    inference_drift_period_ms: Annotated[float, Field(ge=0)] = Field(
        100.0,
        description="Milliseconds between two batches of a version whose observations are compared "
        "with those of its training; 0 for never.",
    )
    inference_canary_errors: Annotated[int, Field(ge=1)] = Field(
        3,
        description="Questions within a minute that a canary cannot answer and the stable version "
        "can, at which it loses its share of the calls.",
    )
    inference_canary_slower: Annotated[float, Field(gt=1)] = Field(
        3.0,
        description="How many times as long as the stable version's the slowest tenth of a "
        "canary's batches may take, before it loses its share.",
    )
    inference_track_all: bool = Field(
        False,
        description="Whether every decision of Act is tracked, and not only those that ask for it.",
    )
    inference_track_wait_s: Annotated[float, Field(gt=0, le=7 * 86400)] = Field(
        600.0, description="Seconds that a tracked decision waits for its outcome."
    )
    inference_track_timeout_ms: Annotated[float, Field(ge=1, le=10_000)] = Field(
        100.0,
        description="Milliseconds that Act waits for Redis to keep a tracked decision, before it "
        "answers without.",
    )
    inference_track_mib: Annotated[int, Field(ge=1)] = Field(
        256,
        description="Redis's memory for the decisions of one policy that wait, about, in MiB; the "
        "oldest are forgotten beyond it.",
    )
    inference_outcomes_mib: Annotated[int, Field(ge=1)] = Field(
        256,
        description="Size in MiB of the replay of one policy's outcomes, where it is made; at most "
        "a million rows.",
    )
    inference_session_most: Annotated[int, Field(ge=1)] = Field(
        100_000,
        description="Sessions of recurrent policies whose state is kept; beyond it the one that "
        "has been idle for longest is forgotten.",
    )
    inference_session_mib: Annotated[int, Field(ge=1)] = Field(
        256, description="Memory for these states in MiB, likewise."
    )
    inference_session_idle_s: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="Seconds after its last decision at which a session is forgotten."
    )
    inference_default_actions: dict[str, int | list[Any]] = Field(
        default_factory=dict,
        description="Safe actions by policy, in JSON, that Act answers with in place of an error "
        "that is not the request's fault, flagged degraded: a number, or a list of elements.",
    )
    inference_decision_log: str | None = Field(
        None,
        description="Folder, or fsspec URL of one, to which decisions are logged as Parquet files, "
        "a folder a policy. Unset: none are.",
    )
    inference_decision_log_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the decisions that are logged."
    )
    inference_decision_log_rows: Annotated[int, Field(ge=1)] = Field(
        100_000, description="Decisions at which such a file is written."
    )
    inference_decision_log_s: Annotated[float, Field(gt=0, le=86400)] = Field(
        60.0, description="Seconds after its first decision at which it is written."
    )
    inference_decision_log_mib: Annotated[int, Field(ge=1)] = Field(
        32,
        description="MiB of memory that decisions of all policies take at which the largest file "
        "is written. At twice as much decisions are left out of the log.",
    )
    inference_access_log_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="Share of the calls that have a line in the log; above 0, calls that fail have "
        "one too.",
    )
    inference_access_log_errors: Annotated[int, Field(ge=0)] = Field(
        10, description="Most such lines a second of calls that fail."
    )
    inference_drain_s: Annotated[float, Field(ge=0, le=600)] = Field(
        0.0, description="Seconds health says NOT_SERVING before new calls are refused."
    )
    inference_max_connection_age_s: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Seconds after which a connection is closed gently, so that clients find new "
        "replicas; 0 for never.",
    )
    inference_tls_certificate: Path | None = Field(
        None, description="PEM file of the server's certificate chain. Unset: no TLS."
    )
    inference_tls_key: Path | None = Field(None, description="PEM file of its key.")
    inference_tls_client_ca: Path | None = Field(
        None,
        description="PEM file of the authority that clients' certificates must be signed by "
        "(mutual TLS). Unset: clients need none.",
    )
    inference_tokens: Path | None = Field(
        None,
        description="File of the tokens that callers must show, a line each: roles (act, report, "
        "admin) with commas between, and the token or sha256:<hex>. Unset: none is needed, and "
        "aliases are moved only from the machine itself.",
    )

    def access(self) -> Access:
        """Who may call what.

        Raises:
            InvalidConfig: when the file of tokens is not such.
        """
        if self.inference_tokens is not None:
            return Access(read_tokens(self.inference_tokens))
        return Access(admin_is_open=is_loopback(self.host))

    def trials(self) -> Trials:
        """What tries models before they are served."""
        named = (name.strip() for name in self.inference_operators.split(","))
        return Trials(
            TrialLimits(self.inference_trial_mib * MIB, self.inference_trial_s),
            ModelLimits(
                self.inference_max_model_mib * MIB,
                self.inference_max_operators,
                frozenset(filter(None, named)),
            ),
            max_batch=self.inference_max_batch,
            intra_op_threads=self.inference_intra_op_threads,
        )

    def canary_limits(self) -> CanaryLimits:
        """What a canary may do."""
        return CanaryLimits(self.inference_canary_errors, self.inference_canary_slower)

    def session_limits(self) -> SessionLimits:
        """How much is kept of sessions, and how long."""
        return SessionLimits(
            self.inference_session_most,
            self.inference_session_mib * MIB,
            self.inference_session_idle_s,
        )

    def outcome_limits(self) -> OutcomeLimits:
        """How much is kept of decisions and outcomes, and how long."""
        return OutcomeLimits(
            wait_s=self.inference_track_wait_s,
            patience_s=self.inference_track_timeout_ms / 1000,
            waiting_bytes=self.inference_track_mib * MIB,
            replay_bytes=self.inference_outcomes_mib * MIB,
        )

    def log_limits(self) -> LogLimits:
        """How much is logged, and when files are written."""
        return LogLimits(
            rate=self.inference_decision_log_rate,
            rows=self.inference_decision_log_rows,
            seconds=self.inference_decision_log_s,
            bytes=self.inference_decision_log_mib * MIB,
        )

    def as_worker(self, number: int, port: int) -> InferenceSettings:
        """Those of one of several workers, counted from 0, which share a port."""
        metrics_port = self.inference_metrics_port and self.inference_metrics_port + number
        address = f"{self.inference_address.rpartition(':')[0]}:{port}"
        own = {"inference_address": address, "inference_metrics_port": metrics_port}
        return self.model_copy(update=own)

    def server_options(self) -> ServerOptions:
        """How the gRPC server listens.

        Raises:
            InvalidConfig: when the address has no port, or a file of TLS is missing.
        """
        return ServerOptions(
            address=f"{self.host}:{port_of(self.inference_address)}",
            max_message_bytes=self.inference_max_message_bytes,
            grace_s=self.grace_s,
            drain_s=self.inference_drain_s,
            max_connection_age_s=self.inference_max_connection_age_s,
            transport=self.inference_transport,
            max_waiting_calls=self.inference_queue_limit,
            tls=self._tls(),
            share_port=self.inference_workers > 1,
        )

    def _tls(self) -> Tls | None:
        names = ("certificate", "key", "client_ca")
        paths = {name: getattr(self, f"inference_tls_{name}") for name in names}
        if not any(paths.values()):
            return None
        if not (paths["certificate"] and paths["key"]):
            raise InvalidConfig(
                "TLS needs TUTELAGE_INFERENCE_TLS_CERTIFICATE and TUTELAGE_INFERENCE_TLS_KEY"
            )
        return Tls(*map(content_of, paths.values()))
