"""The incidents of drift that are not over, from the present states of monitors and what people said of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson

from streamproc.core.control import Control, IncidentNote
from streamproc.core.drift.detector import LEVELS
from streamproc.core.drift.volume import TESTS as VOLUME_TESTS

log = logging.getLogger(__name__)

Standing = Literal["open", "acknowledged", "snoozed"]
STANDINGS: tuple[Standing, ...] = ("open", "acknowledged", "snoozed")
_NEEDED = frozenset({"monitor", "column", "segment", "severity", "baseline"})


@dataclass(frozen=True, slots=True)
class Incident:
    """Monitors that drift together, worst first. ``note`` is what somebody said of it last."""

    id: str
    since: str
    monitors: tuple[str, ...]
    severity: float
    note: IncidentNote | None

    def standing(self, now: datetime) -> Standing:
        """How people stand to it."""
        if self.note is None:
            return "open"
        return "snoozed" if self.note.is_snoozed(now) else "acknowledged" if self.note.acknowledged else "open"

    def as_json(self, now: datetime) -> dict[str, Any]:
        """For people's programs."""
        note = self.note
        return {
            "id": self.id,
            "since": self.since,
            "state": self.standing(now),
            "owner": None if note is None else note.owner,
            "snoozed_until": None if note is None else note.snoozed_until,
            "why": None if note is None else note.why,
            "severity": self.severity,
            "monitors": list(self.monitors),
        }


def read_states(values: Iterable[bytes], baseline: str) -> list[dict[str, Any]]:
    """The states of monitors of a baseline, and of volume; what is none of ours is left out."""
    found = list[dict[str, Any]]()
    for value in values:
        try:
            state: dict[str, Any] = orjson.loads(value)
            assert state["state"] in LEVELS and set(state) >= _NEEDED
        except (orjson.JSONDecodeError, KeyError, TypeError, AssertionError):
            log.warning("a record on the drift-state topic is none of streamproc's, and is left out")
            continue
        if state["baseline"] == baseline or state.get("test") in VOLUME_TESTS:  # volume goes on under any baseline
            found.append(state)
    return found


def open_incidents(states: Iterable[Mapping[str, Any]], control: Control) -> list[Incident]:
    """The incidents of drifting monitors, the oldest first."""
    by_id = dict[str, list[Mapping[str, Any]]]()
    for state in states:
        if state.get("incident") is not None:  # version 0.1.0 did not write it
            by_id.setdefault(state["incident"]["id"], []).append(state)
    found = [
        Incident(
            name,
            min(state["incident"]["since"] for state in its),
            tuple(state["monitor"] for state in sorted(its, key=lambda one: (-one["severity"], one["monitor"]))),
            max(state["severity"] for state in its),
            control.incidents.get(name),
        )
        for name, its in by_id.items()
    ]
    return sorted(found, key=lambda incident: (incident.since, incident.id))
