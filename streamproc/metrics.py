"""Every metric, once. They are served under ``/metrics`` in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 10, 100, 500, 1000, 2000, 4000, 8000, 16000, 32000)

REGISTRY = CollectorRegistry()


class Latency:
    """A histogram that takes a whole array at once: prometheus-client's own costs a call per event."""

    def __init__(self, name: str, documentation: str, label: str, registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._labelnames = name, documentation, (label,)
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._sums: dict[str, float] = {}
        registry.register(self)

    def observe(self, label: str, seconds: NDArray[np.float64]) -> None:
        """Add observations, shape (n,), in seconds."""
        places = np.searchsorted(SECONDS, seconds, side="left")
        counts = np.bincount(places, minlength=len(SECONDS) + 1)
        self._counts[label] = self._counts.get(label, 0) + counts
        self._sums[label] = self._sums.get(label, 0.0) + float(seconds.sum())

    def collect(self) -> Iterable[Metric]:
        """The histograms for Prometheus: their buckets are cumulative."""
        bounds = [*(str(bound) for bound in SECONDS), "+Inf"]
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for label, counts in self._counts.items():
            buckets = [(bound, float(count)) for bound, count in zip(bounds, np.cumsum(counts), strict=True)]
            family.add_metric([label], buckets, self._sums[label])
        yield family


class Statistics:
    """A gauge by monitor that is asked for when it is scraped; ``source`` gives the values, of which the largest are
    shown."""

    def __init__(self, name: str, documentation: str, most: int, registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._most = name, documentation, most
        self._labelnames = ("monitor",)
        self.source: Callable[[], Mapping[str, float]] = dict
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The gauge for Prometheus."""
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for monitor, value in sorted(self.source().items(), key=lambda item: -item[1])[: self._most]:
            family.add_metric([monitor], value)
        yield family


# Counted by the processor: its effects carry the increments, so a batch that is discarded is not counted.
COUNTED = {
    name: Counter(f"streamproc_{name}", text, ["label"], registry=REGISTRY)
    for name, text in {
        "events": "Events that were decided or dead-lettered, by topic",
        "decisions": "Decisions by what was decided",
        "tiers": "Decisions by the tier that made them",
        "fallback_reasons": "Decisions that the first model and the rules did not make, by why not",
        "dead_letters": "Dead letters by reason",
        "undecided_rules": "Rules that could not be evaluated, by rule id",
        "unscored": "Events without a usable score, by reason",
        "unguarded": "Events that a classifier before a language model said nothing of, by why not",
        "stale": "Events older than max_age, by topic",
        "late": "Events too old for their windows to be known (windows: lateness), by topic",
        "window_keys_left": "Keys of windows that left because a lane had more than max_keys, by topic",
        "ids_left": "Ids that were forgotten before their time because a lane had more than max_ids, by topic",
        "panes": "Records of panes that the drift agent was given, by what became of them",
        "drift_windows": "Windows of drift monitors: full, thin (judged at max_age) or insufficient",
        "drift_changes": "Changes of drift monitors, by their new state",
        "drift_changed": "Decisions that drift changed, by what was decided (with max_extra_review)",
        "drift_capped": "Decisions that drift was not let change (max_extra_review), by what it would have decided",
        "drift_escalations": "Times that a lane began to keep drift from changing decisions, by topic",
        "missing_lookups": "Look-ups of events that gave no value, by source and reason: `profiles/no_such_key`; and,"
        " as `profiles/stale`, those that a table answered that was older than it may be",
        "explored": "Decisions that were made otherwise by chance, by what was decided (review: explore)",
        "cases": "Cases for people: review, or audit for a sample of what is decided automatically",
        "review_steps": "Steps of cases, such as opened, decided and expired; PIPELINE.review-events has each",
        "review_refused": "What people said and was not let count, by reason",
        "verdicts": "What people said, by kind: verdict, claim, release, cancel",
        "action_results": "What became of actions, as reported on PIPELINE.action-results",
        "came": "Outcomes that were joined with a decision, by decision and value: `approve/repaid`; corrections again",
        "overrides": "Decisions of people that are not what automation would have decided, by what they decided",
        "measured": "Records that the outcome agent was given or wrote, by what became of them",
        "outcomes": "Outcomes that came, by how they name their decision",
        "llm_cache": "Events that a language model's cache answered, exact or semantic; and those that the model was"
        " asked about all the same, to know whether the answer to a like text is right or wrong",
        "records": "Records written by agents of the user's own, by topic",
    }.items()
}

DRIFT_LEVEL = Gauge(
    "streamproc_drift_level",
    "How a monitor of drift stands: 1 warning, 2 drifting; those that are stable are left out",
    ["monitor"],
    registry=REGISTRY,
)
MOST_STATISTICS = 200
DRIFT_STATISTIC = Statistics(
    "streamproc_drift_statistic",
    "The statistic of a monitor of drift as a part of its threshold, by the worker that judges it; of so many the"
    f" {MOST_STATISTICS} largest that are not 0",
    MOST_STATISTICS,
    REGISTRY,
)
INCIDENTS = Gauge(
    "streamproc_drift_incidents",
    "Incidents of drift that are not over, by how people stand to them: open, acknowledged, snoozed; each worker tells"
    " of all",
    ["state"],
    registry=REGISTRY,
)
TABLE_ROWS = Gauge("streamproc_table_rows", "Rows of a table that this worker holds", ["table"], registry=REGISTRY)
TABLE_AGE = Gauge(
    "streamproc_table_age_seconds",
    "Since when a table was not known to show all of its topic",
    ["table"],
    registry=REGISTRY,
)
TABLE_REFUSED = Counter(
    "streamproc_table_refused",
    "Rows that do not satisfy the contract of their table and were left out",
    ["table"],
    registry=REGISTRY,
)
LATENCY = Latency(
    "streamproc_latency_seconds",
    "From the timestamp of a record to the commit of what came of it; of agent decide, from event to decision",
    "agent",
    REGISTRY,
)
BATCH_EVENTS = Histogram("streamproc_batch_events", "Events in a batch", ["agent"], buckets=SIZES, registry=REGISTRY)
COMPUTE = Histogram(
    "streamproc_compute_seconds",
    "Time of a batch in its processor",
    ["agent"],
    buckets=SECONDS,
    registry=REGISTRY,
)
STAGE = Histogram(
    "streamproc_stage_seconds",
    "Time of a batch in a stage of the decide processor, without waiting for answers",
    ["stage"],
    buckets=SECONDS,
    registry=REGISTRY,
)
BREAKER = Gauge(
    "streamproc_breaker",
    "Whether a model or a store is asked: 0 closed, 1 half-open (one call tries), 2 open (it is not)",
    ["model"],
    registry=REGISTRY,
)
ANSWER = Histogram(
    "streamproc_answer_seconds",
    "Time until asks were answered",
    ["source"],
    buckets=SECONDS,
    registry=REGISTRY,
)
TRANSACTION = Histogram("streamproc_transaction_seconds", "Time of a transaction", buckets=SECONDS, registry=REGISTRY)
TRANSACTIONS = Counter("streamproc_transactions", "Transactions by outcome", ["outcome"], registry=REGISTRY)
LAG = Gauge(
    "streamproc_lag_records",
    "Records between a lane's position and the end",
    ["topic", "partition"],
    registry=REGISTRY,
)
LAG_SECONDS = Gauge(
    "streamproc_lag_seconds",
    "Age of the last event that a lane was given, if it is behind",
    ["topic", "partition"],
    registry=REGISTRY,
)
UNSTABLE = Gauge(
    "streamproc_unstable_records",
    "Records behind an open transaction of whoever writes the topic: nobody is given them before it ends",
    ["topic", "partition"],
    registry=REGISTRY,
)
RETENTION = Gauge(
    "streamproc_retention_seconds",
    "How long the topic keeps its records, if not for ever",
    ["topic"],
    registry=REGISTRY,
)
STALLED = Gauge(
    "streamproc_stalled_seconds", "Since when a lane with work has made no progress: the worst", registry=REGISTRY
)
OPENING = Gauge("streamproc_opening_seconds", "For how long lanes have been opening, if any do", registry=REGISTRY)
LANES = Gauge("streamproc_lanes", "Lanes of this worker by state", ["state"], registry=REGISTRY)
REBALANCES = Counter("streamproc_rebalances", "Assignments that this worker was given", registry=REGISTRY)
CHECKPOINTS = Counter(
    "streamproc_checkpoints", "Checkpoints of lanes' state, by what became of them", ["label"], registry=REGISTRY
)
RESTORED = Counter("streamproc_restored_records", "Changelog records read to restore state", registry=REGISTRY)
RESTARTS = Gauge("streamproc_restarts", "Times that the supervisor has started this worker again", registry=REGISTRY)
REVIEW_WAITING = Gauge(
    "streamproc_review_waiting", "Cases that wait for people, on the lanes of this worker", registry=REGISTRY
)
MODE = Gauge(
    "streamproc_mode",
    "1 for what people let automation do: automatic, fallback, review-all",
    ["mode"],
    registry=REGISTRY,
)
BROKER_AWAY = Gauge("streamproc_broker_away", "1 while the worker waits for the broker", registry=REGISTRY)


def count(counts: dict[tuple[str, str], int] | None) -> None:
    """Add the increments that came with a committed batch."""
    for (name, label), increment in (counts or {}).items():
        COUNTED[name].labels(label).inc(increment)


# Of the door for HTTP, which is a process of its own.
DOOR_REGISTRY = CollectorRegistry()
REQUESTS = Counter(
    "streamproc_door_requests",
    "Requests that were answered, by what they asked for and the status",
    ["route", "status"],
    registry=DOOR_REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "streamproc_door_request_seconds",
    "Time from a request's head to the end of its answer",
    ["route"],
    buckets=SECONDS,
    registry=DOOR_REGISTRY,
)
TAKEN = Counter("streamproc_door_events", "Events that were written, by topic", ["topic"], registry=DOOR_REGISTRY)
TURNED_AWAY = Counter(
    "streamproc_door_refused", "Events that the contract refused, by reason", ["reason"], registry=DOOR_REGISTRY
)
UNMARKED = Counter(
    "streamproc_door_unmarked",
    "Late decisions of which nobody could put on record in time that their caller has not seen them",
    registry=DOOR_REGISTRY,
)
LATE = Counter(
    "streamproc_door_late",
    "Deadlines that passed before the decision came, by what was answered",
    ["said"],
    registry=DOOR_REGISTRY,
)
WAITING = Gauge("streamproc_door_waiting", "Callers that wait for a decision", registry=DOOR_REGISTRY)
STREAMS = Gauge("streamproc_door_streams", "Callers that follow decisions", registry=DOOR_REGISTRY)
DROPPED = Counter(
    "streamproc_door_dropped", "Callers that followed decisions more slowly than they came", registry=DOOR_REGISTRY
)
DOOR_BYTES = Gauge(
    "streamproc_door_bytes", "Bytes in memory: events on their way, decisions of late", ["of"], registry=DOOR_REGISTRY
)
DOOR_LAG = Gauge(
    "streamproc_door_lag_seconds",
    "For how long the oldest event has waited that no lane has finished; less than a second is none",
    registry=DOOR_REGISTRY,
)
DOOR_UNREAD = Gauge(
    "streamproc_door_unread_seconds",
    "For how long the door has not read all decisions and dead letters that there are",
    registry=DOOR_REGISTRY,
)
DOOR_AWAY = Gauge("streamproc_door_broker_away", "1 while the broker does not answer the door", registry=DOOR_REGISTRY)
