"""Recovery: of each incident when it began, was seen, was met with something, and was over.

Three kinds: the model gave no scores, people switched automation off, something drifted. The first is told by the
decisions of each window, the second by the audit topic, the third by the topic of drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from streamproc.core.control import IncidentNote, NewMode, Said
from streamproc.core.outcomes.decision import Moment
from streamproc.core.outcomes.measures import Window

MISSED: Final = frozenset({"timeout", "breaker_open", "error"})
"""Reasons to fall back that say that the model was missed; others are the event's, the rules' or the people's."""
OPEN_BREAKER: Final = "breaker_open"
QUIET: Final = 60.0
"""Seconds without such a decision that part one incident of the model from the next, within windows that follow."""


@dataclass(slots=True)
class Recovery:
    """One incident. Times are UTC; of drift, event times. ``None`` is what did not come about, or not yet."""

    kind: Literal["model", "mode", "drift"]
    what: str
    onset: datetime
    detection: datetime | None = None
    mitigation: datetime | None = None
    end: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """With how long it took, in seconds."""
        spent = None if self.end is None else (self.end - self.onset).total_seconds()
        return {**asdict(self), "seconds": spent}


def of_model(windows: Iterable[Window], now: datetime) -> list[Recovery]:
    """From the first and last decision without a score in each window.

    It is seen when the breaker opens. What meets it is the fallback chain, from the first event on. Two gaps in one
    window are one incident.
    """
    spans = list[tuple[int, int, str]]()
    for window in windows:
        spans += [(first, last, name) for name, (first, last) in window.marks.items() if name in MISSED]
    found = list[tuple[Recovery, set[str]]]()
    for first, last, name in sorted(spans):
        begin, end = _moment(first), _moment(last)
        if not found or (begin - (found[-1][0].end or begin)).total_seconds() > QUIET:
            found.append((Recovery("model", "", begin, None, begin, end), set()))
        incident, names = found[-1]
        names.add(name)
        incident.end = max(incident.end or end, end)
        if name == OPEN_BREAKER and incident.detection is None:
            incident.detection = begin
    for incident, names in found:
        incident.what = ", ".join(sorted(names))
        if incident.end is not None and (now - incident.end).total_seconds() < QUIET:
            incident.end = None  # it may go on
    return [incident for incident, _ in found]


def of_modes(said: Iterable[Said]) -> list[Recovery]:
    """From what people said, in its order: each stretch in which automation was not let decide."""
    found = list[Recovery]()
    for one in said:
        if isinstance(one, NewMode):
            if found and found[-1].end is None:
                found[-1].end = one.time
            if one.mode != "automatic":
                found.append(Recovery("mode", f"{one.mode}: {one.why}", one.time, one.time, one.time))
    return found


class _Onset(msgspec.Struct):
    time: Moment


class _Incident(msgspec.Struct):
    id: str


class _Change(msgspec.Struct):
    monitor: str
    state: str
    time: Moment
    onset: _Onset | None = None
    incident: _Incident | None = None


def _changes(changes: Iterable[Any]) -> Iterator[_Change]:
    """Those that can be read: a strange record must not keep people from all others."""
    for change in changes:
        with suppress(msgspec.ValidationError):
            yield msgspec.convert(change, _Change)


def of_drift(changes: Iterable[Any], said: Sequence[Said]) -> list[Recovery]:
    """From changes of monitors, in their order. What meets an incident is the first that people say of it."""
    found: dict[str, Recovery] = {}
    drifting: dict[str, set[str]] = {}
    of_monitor: dict[str, str] = {}

    def leave(monitor: str, time: datetime) -> None:
        name = of_monitor.pop(monitor)
        drifting[name].discard(monitor)
        if not drifting[name]:
            found[name].end = time

    for change in _changes(changes):
        time, monitor = change.time, change.monitor
        if change.state == "drifting" and change.incident is not None:
            name, onset = change.incident.id, time if change.onset is None else change.onset.time
            if of_monitor.get(monitor, name) != name:
                leave(monitor, time)
            incident = found.setdefault(name, Recovery("drift", name, onset, time))
            incident.onset, incident.end = min(incident.onset, onset), None
            drifting.setdefault(name, set()).add(monitor)
            of_monitor[monitor] = name
        elif change.state == "stable" and monitor in of_monitor:
            leave(monitor, time)
    for one in said:
        if isinstance(one, IncidentNote) and one.incident in found and found[one.incident].mitigation is None:
            found[one.incident].mitigation = one.time
    return list(found.values())


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
