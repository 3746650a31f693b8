"""Changes of monitors as records: what changed, since when, by how much, how sure, and what else moved with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import orjson

from streamproc.core.drift.accuracy import ASSUMES, EXPECTED_ACCURACY, expected_accuracy
from streamproc.core.drift.baseline import EVERYTHING, PANE, Baseline, Monitor
from streamproc.core.drift.detector import Change, Detector, Place
from streamproc.core.drift.panes import Counts
from streamproc.core.drift.summary import changed_most, describe, describe_reference, effect, shares

TOGETHER = 5_000
"""An alarm belongs to the open incident where it began no later than so many events after the incident's last one."""
ALARM_VERSION = 1
ID_BYTES = 10
MOST_NAMED = 20
"""So many monitors of an incident are named in each of its records."""


class Incident(msgspec.Struct):
    """The alarms that belong together.

    ``last`` is the ordinal of the pane of its last alarm; ``monitors`` are the numbers of all that alarmed in it, in
    that order, ``open`` of those that are still drifting.
    """

    id: str
    since: str
    last: int
    monitors: list[int]
    open: list[int]


@dataclass(slots=True)
class Incidents:
    """The incidents that are not over."""

    running: list[Incident] = field(default_factory=list)

    def of(
        self, number: int, after: str, onset: int, end: int, together: int, alarm: str, since: str
    ) -> Incident | None:
        """The incident that a change belongs to: for an alarm one that it joins or opens, for a recovery its own.

        It joins one whose last alarm was no more than ``together`` before its ``onset``; these and its ``end`` are
        ordinals.
        """
        own = next((incident for incident in self.running if number in incident.open), None)
        if after == "drifting":
            if own is None:
                own = next((incident for incident in self.running if onset <= incident.last + together), None)
            if own is None:
                own = Incident(alarm, since, 0, [], [])
                self.running.append(own)
            own.last = max(own.last, end)
            own.monitors = list(dict.fromkeys([*own.monitors, number]))
            own.open = sorted({*own.open, number})
        elif own is not None:
            own.open = [other for other in own.open if other != number]
            if not own.open:
                self.running.remove(own)
        return own


def monitor_key(baseline: Baseline, monitor: Monitor) -> str:
    """The name of a monitor: ``column/test``, with the segment in brackets behind it."""
    segment = baseline.row_name(monitor.row)
    return f"{monitor.column}/{monitor.test}" + (f" [{segment}]" if segment else "")


def instant(microseconds: int) -> str:
    """A time as records carry it."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")  # strftime has years of one digit


def alarm_record(pipeline: str, detector: Detector, change: Change, incidents: Incidents) -> dict[str, Any]:
    """A change as schemas/drift.schema.json has it."""
    baseline = detector.baseline
    monitor = baseline.monitors[change.monitor]
    assert monitor.fit is not None
    key = monitor_key(baseline, monitor)
    column = detector.layout.bins[detector.layout.places[monitor.column]]
    reference = np.array(baseline.totals[monitor.column][monitor.row], np.int64)
    recent = detector.without_season(change)
    severity, psi = effect(reference, recent)
    identity = f"{pipeline}\0{baseline.hash}\0{key}\0{change.after}\0{change.end}".encode()
    alarm = hashlib.blake2b(identity, digest_size=ID_BYTES).hexdigest()
    time = instant(change.end.time)
    onset, end = change.onset.ordinal, change.end.ordinal
    incident = incidents.of(change.monitor, change.after, onset, end, TOGETHER // PANE, alarm, time)
    before = (describe_reference if monitor.row == EVERYTHING else describe)(column, reference)
    segment = None
    if monitor.row != EVERYTHING:
        own = baseline.segments[monitor.row - 1]
        segment = {"column": own.column, "value": own.value}
    return {
        "id": alarm,
        "version": ALARM_VERSION,
        "pipeline": pipeline,
        "baseline": baseline.hash,
        "time": time,
        "monitor": key,
        "column": monitor.column,
        "segment": segment,
        "test": monitor.test,
        "direction": change.direction or None,
        "before": change.before,
        "state": change.after,
        "statistic": change.statistic,
        "threshold": change.threshold,
        "severity": round(severity, 4),
        "psi": round(psi, 4),
        "onset": _place(change.onset),
        "window": {"from": _place(change.window), "to": _place(change.end, PANE), "events": monitor.window},
        "reference": before,
        "current": describe(column, change.recent, change.moments),
        "changed_most": changed_most(column, reference, recent),
        "decisions": _decisions(detector, change),
        "budget": dict(baseline.source.get("budget", {})),
        "expected_delay": list(monitor.delays),
        "expected_accuracy": _accuracy(baseline, monitor, reference, change.recent),
        "incident": None
        if incident is None
        else told_incident(incident, (monitor_key(baseline, baseline.monitors[one]) for one in incident.monitors)),
    }


def told_incident(incident: Incident, names: Iterable[str]) -> dict[str, Any]:
    """An incident as records have it; ``names`` are those of its monitors."""
    named = list(islice(names, MOST_NAMED))
    return {"id": incident.id, "since": incident.since, "alarmed": len(incident.monitors), "monitors": named}


def _accuracy(baseline: Baseline, monitor: Monitor, reference: Counts, recent: Counts) -> dict[str, Any] | None:
    """What accuracy is expected of the reference's scores and of the last events', and what that takes for granted."""
    if monitor.test != EXPECTED_ACCURACY:
        return None
    before, now = (expected_accuracy(baseline.accuracies, counts) for counts in (reference, recent))
    shown = [None if value is None else round(value, 4) for value in (before, now)]
    return {"reference": shown[0], "now": shown[1], "assumes": list(ASSUMES)}


def state_record(record: Mapping[str, Any]) -> bytes:
    """What the compacted topic keeps of a change: the monitor's present state."""
    kept = ("monitor", "column", "segment", "test", "state", "severity", "time", "baseline", "id")
    incident = record["incident"] if record["state"] == "drifting" else None
    of = None if incident is None else {"id": incident["id"], "since": incident["since"]}
    return orjson.dumps({**{name: record[name] for name in kept}, "incident": of})


def _place(place: Place, after: int = 0) -> dict[str, Any]:
    return {"partition": place.partition, "offset": place.offset + after, "time": instant(place.time)}


def _decisions(detector: Detector, change: Change) -> dict[str, Any]:
    """How decisions moved: their shares in the reference and among the last events, where they are watched."""
    moved = dict[str, Any]()
    for name, recent in change.decided.items():
        column, before = detector.layout.bins[detector.layout.places[name]], detector.baseline.totals[name][EVERYTHING]
        moved[name] = {"before": shares(column, before), "now": shares(column, recent)}
    return moved
