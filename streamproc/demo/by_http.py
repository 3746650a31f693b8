"""What is more where part of the events goes by HTTP: a door, and callers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamproc.core.plan import Plan
from streamproc.demo.callers import Callers
from streamproc.demo.door import Door
from streamproc.demo.events import Events
from streamproc.demo.tally import Tally
from streamproc.demo.ways import Both, ways_of
from streamproc.kafka.connection import Connection


@dataclass(frozen=True, slots=True)
class ByHttp:
    """The door, and who asks it. ``both`` is what the tally counts by."""

    door: Door
    callers: Callers
    both: Both


def open_door(
    file: Path, plan: Plan, connection: Connection, tally: Tally, events: Events, rate: float, port: int, log: Path
) -> ByHttp:
    """Start a door at this port, and say which events go through it."""
    tally.both = both = Both(ways_of(plan, events))
    door = Door(file, connection, port, log)
    return ByHttp(door, Callers(door.url, events, both, rate, door.check), both)
