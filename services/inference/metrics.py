"""What the inference service tells Prometheus. Calls by method and status are in common.server."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from services.common.histogram import Histogram

SECONDS = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1.0)

QUEUE = Histogram(
    "tutelage_inference_queue_seconds",
    "Time a request waited for its batch to run.",
    "policy",
    buckets=SECONDS,
)
RUN = Histogram(
    "tutelage_inference_run_seconds",
    "Time one batch took in the model and in choosing its actions.",
    "policy",
    buckets=SECONDS,
)
BATCH_ROWS = Histogram(
    "tutelage_inference_batch_rows",
    "Observations in one batch.",
    "policy",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024),
)
REFUSED = Counter(
    "tutelage_inference_refused_total", "Requests refused because the queue was full.", ["policy"]
)
DEGRADED = Counter(
    "tutelage_inference_degraded_total",
    "Calls of Act answered with a safe default action, by why: full, version, model.",
    ["policy", "reason"],
)
DROPPED = Counter(
    "tutelage_inference_dropped_total",
    "Requests whose caller had gone before the model ran.",
    ["policy"],
)
SERVING = Gauge(
    "tutelage_inference_serving_version",
    "Version that answers for an alias.",
    ["policy", "alias"],
)
SERVED = Gauge(
    "tutelage_inference_served_info",
    "1 for the version that answers for an alias, with the SHA-256 of its model.",
    ["policy", "alias", "version", "digest"],
)
LOADED_BYTES = Gauge(
    "tutelage_inference_loaded_bytes",
    "Memory that the loaded versions of a policy take, about.",
    ["policy"],
)
UNLOADED = Counter(
    "tutelage_inference_unloaded_total",
    "Versions that were forgotten for want of room, and are loaded again when they are asked for.",
    ["policy"],
)
LOAD_FAILURES = Counter(
    "tutelage_inference_load_failures_total", "Versions that were refused.", ["policy"]
)
REPOSITORY_ERRORS = Counter(
    "tutelage_inference_repository_errors_total",
    "Looks at the policy repository that failed, wholly or for one policy.",
)
TRACKED = Counter(
    "tutelage_inference_tracked_total",
    "Decisions that were kept for their outcomes.",
    ["policy"],
)
UNTRACKED = Counter(
    "tutelage_inference_untracked_total",
    "Decisions that were to be kept, and were answered without it: Redis did not take them.",
    ["policy"],
)
OUTCOMES = Counter(
    "tutelage_inference_outcomes_total",
    "Outcomes reported, by what became of them: kept, duplicate, unknown.",
    ["policy", "result"],
)
FORGOTTEN = Counter(
    "tutelage_inference_forgotten_total",
    "Decisions for which no outcome, or nothing that they led to, came in time.",
    ["policy"],
)
JOINED = Counter(
    "tutelage_inference_joined_total",
    "Transitions of decisions and outcomes that were appended to the replay.",
    ["policy"],
)
FEED_ERRORS = Counter(
    "tutelage_inference_feed_errors_total",
    "Times that transitions could not be appended to the replay; they wait.",
    ["policy"],
)
CANARY_SHARE = Gauge(
    "tutelage_inference_canary_share",
    "Share of the calls for stable that the canary answers here.",
    ["policy"],
)
CANARY_STOPPED = Counter(
    "tutelage_inference_canary_stopped_total",
    "Canaries that lost their share here, by why: errors, latency.",
    ["policy", "reason"],
)
SHADOW_ROWS = Counter(
    "tutelage_inference_shadow_rows_total",
    "Observations that the shadow was shown.",
    ["policy"],
)
SHADOW_DIFFERS = Counter(
    "tutelage_inference_shadow_differs_total",
    "Of these, those for which the shadow's greedy action is another than the stable version's.",
    ["policy"],
)
SHADOW_KL = Histogram(
    "tutelage_inference_shadow_kl",
    "KL divergence of the shadow's distribution from the stable version's, in nats.",
    "policy",
    buckets=(1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)
SHADOW_SKIPPED = Counter(
    "tutelage_inference_shadow_skipped_total",
    "Observations that the shadow was not shown, for it is slower than they come.",
    ["policy"],
)
SHADOW_ERRORS = Counter(
    "tutelage_inference_shadow_errors_total",
    "Batches that the shadow could not decide on.",
    ["policy"],
)
DRIFT = Gauge(
    "tutelage_inference_observation_drift",
    "How far the mean of the last 1000 observations that were looked at is from that of training, "
    "in the element that moved most, in standard deviations of training.",
    ["policy", "version"],
)
UNUSUAL = Gauge(
    "tutelage_inference_observations_unusual",
    "Share of these observations with an element that is more than 5 standard deviations off.",
    ["policy", "version"],
)
SESSIONS = Gauge(
    "tutelage_inference_sessions",
    "Sessions of a recurrent policy whose state is kept here, and of which nothing is under way.",
    ["policy"],
)
SESSIONS_EVICTED = Counter(
    "tutelage_inference_sessions_evicted_total",
    "Sessions that were forgotten because there were too many, or too large.",
    ["policy"],
)
SESSIONS_EXPIRED = Counter(
    "tutelage_inference_sessions_expired_total",
    "Sessions that were forgotten because nobody had asked for too long.",
    ["policy"],
)
SESSION_RESETS = Counter(
    "tutelage_inference_session_resets_total",
    "Questions to a recurrent policy that began without a state, by why: episode, that is what was "
    "asked; version, another one had left it; unknown, there was none.",
    ["policy", "reason"],
)
LOG_ROWS = Counter(
    "tutelage_inference_decision_log_rows_total",
    "Decisions that were written to files of the decision log.",
    ["policy"],
)
LOG_DROPPED = Counter(
    "tutelage_inference_decision_log_dropped_total",
    "Decisions that were to be logged and were not: the files are not written fast enough, or "
    "cannot be.",
    ["policy"],
)
LOG_ERRORS = Counter(
    "tutelage_inference_decision_log_errors_total",
    "Times that a file of the decision log could not be written.",
)
