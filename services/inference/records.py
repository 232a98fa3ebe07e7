"""What is recorded of calls and decisions, as far as the settings want it: logs and traces."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from services.common.registry import PolicyManifest
from services.common.server.access import Access
from services.common.server.access_log import AccessLog
from services.common.server.watching import Watcher
from services.inference.batching import Observer
from services.inference.decision_log import DecisionLog
from services.inference.settings import InferenceSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


class Records:
    """Who looks at calls and decisions; nobody, where nothing is to be recorded.

    decisions: where they are logged; None: nowhere.

    Args:
        traces: where spans are sent; None: there are none.

    Raises:
        InvalidConfig: when decisions are to be logged, and pyarrow is not installed.
    """

    def __init__(
        self, settings: InferenceSettings, access: Access, traces: TracerProvider | None
    ) -> None:
        url, rate = settings.inference_decision_log, settings.inference_access_log_rate
        self.decisions = DecisionLog(url, settings.log_limits()) if url else None
        errors = settings.inference_access_log_errors
        self._calls = AccessLog(rate, errors, access) if rate else None
        self._traces = traces

    def watchers(self) -> list[Watcher]:
        """Who looks at calls."""
        found: list[Watcher] = []
        if self._traces is not None:  # first, so that the log can name the trace
            from services.common.tracing import SCOPE, CallSpans

            found.append(CallSpans(self._traces.get_tracer(SCOPE)))
        if self._calls is not None:
            found.append(self._calls)
        return found

    def observers(self, manifest: PolicyManifest) -> tuple[Observer, ...]:
        """Who looks at what a version decides."""
        found: list[Observer] = []
        if self.decisions is not None:
            found.append(self.decisions.of(manifest))
        if self._traces is not None:
            from services.common.tracing import SCOPE
            from services.inference.batch_spans import BatchSpans

            found.append(BatchSpans(self._traces.get_tracer(SCOPE)))
        return tuple(found)

    def close(self, timeout_s: float) -> None:
        """Write and send what has come, for so long at most."""
        deadline = time.monotonic() + timeout_s
        for part in (self.decisions, self._calls):
            if part is not None:
                part.close(max(0.0, deadline - time.monotonic()))
        if self._traces is not None:
            from services.common.tracing import close_provider

            close_provider(self._traces, max(0.0, deadline - time.monotonic()))
