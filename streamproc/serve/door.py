"""The door itself: what it takes, what it refuses, and where that goes. It knows no HTTP."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import orjson

from streamproc import metrics
from streamproc.core.decide.events import decision_ids
from streamproc.core.plan import Plan
from streamproc.core.processor import Headers
from streamproc.core.records import DUPLICATE, DeadLetter
from streamproc.plan.serve_parts import ServePart
from streamproc.serve.answers import Answers, Decided
from streamproc.serve.callers import Caller, Rates
from streamproc.serve.events import Checker, Incoming, headers_of, partitions_of
from streamproc.serve.following import Following
from streamproc.serve.history import History
from streamproc.serve.lag import Lag
from streamproc.serve.problems import Problem
from streamproc.serve.writing import PATIENCE_SECONDS, Arriving, Away, Outgoing, Placed, Writer

MOST_PLACES: Final = 50_000
"""So many events are known to have been taken."""
SILENT_SECONDS: Final = 6.0
DEAF_SECONDS: Final = 10.0
"""A door that has not read all decisions for so long leaves its callers waiting."""
MILLISECOND: Final = timedelta(milliseconds=1)
REPEAT: Final = "nobody knows whether it was taken: send it again, with the same id"


class _Place(NamedTuple):
    """Where an event stands, or will: it is one of several that are written together."""

    arriving: Arriving
    number: int

    @property
    def placed(self) -> Placed | None:
        """Where it stands, once that is known."""
        return self.arriving.result()[self.number] if self.arriving.done() and not self.arriving.exception() else None

    def is_before(self, oldest: int) -> bool:
        """Whether it was written before a time (ms)."""
        return (placed := self.placed) is not None and placed.timestamp < oldest


@dataclass(slots=True)
class Door:
    """Everything that a request needs. ``writer`` writes events, and ``sayer`` all else, which must not hold them up.
    ``count`` is of the partitions of the topic that events are written to,
    ``largest`` the bytes that a record of it may have."""

    plan: Plan
    part: ServePart
    checker: Checker
    writer: Writer
    sayer: Writer
    answers: Answers
    history: History
    following: Following
    lag: Lag
    rates: Rates
    count: int
    largest: int
    held: int = 0
    """Bytes of bodies that requests hold."""
    _places: OrderedDict[str, _Place] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.answers.on_refused = self._refused

    @property
    def span(self) -> int:
        """For how long an answer is that of a repeated event too, in milliseconds."""
        known = self.part.look_back
        return (known if self.plan.events.dedupe is None else min(known, self.plan.events.dedupe)) // MILLISECOND

    @property
    def away(self) -> bool:
        """Whether the broker takes nothing, or answers nothing."""
        return self.writer.away or self.lag.silent > SILENT_SECONDS

    @property
    def holding(self) -> int:
        """Bytes that requests hold, and what is on its way."""
        return self.held + self.writer.bytes + self.sayer.bytes

    @property
    def ready(self) -> bool:
        """Whether events can be taken now, and their decisions be answered."""
        return not (self.away or self._behind or self.following.behind > DEAF_SECONDS)

    @property
    def _behind(self) -> bool:
        most = self.part.max_lag
        return most is not None and self.lag.seconds > most.total_seconds()

    def end(self) -> None:
        """Nobody waits any longer: those who do are told what is said at their deadline."""
        self.answers.end()
        self.history.end()

    def admit(self, caller: Caller, events: int) -> None:
        """Raises Problem where so many events cannot be taken now."""
        if self.away:
            raise Problem("broker-away", "the broker does not answer: nothing was taken", wait=2)
        if self._behind:
            raise Problem(
                "behind", f"the oldest event has waited for {self.lag.seconds:.0f} s: nothing was taken", wait=5
            )
        if self.holding > self.part.bytes:
            raise Problem("too-many", "so many events are on their way that no more are taken", wait=1)
        if wait := self.rates.take(caller, events, time.monotonic_ns() // 1000):
            raise Problem("too-many", f"{caller.name} sends more events than it may", wait=math.ceil(wait / 1e6))

    def _refused(self, letter: DeadLetter, digest: str) -> None:
        """An event that the pipeline refused is none: sent again, it is another one, and may have been mended."""
        if letter.reason != DUPLICATE:
            self._places.pop(digest, None)

    def has(self, event: Incoming) -> bool:
        """Whether it is known where the event stands, or will."""
        return event.repeatable and event.digest in self._places

    def known(self, event: Incoming) -> Decided | None:
        """The decision of an event that was sent before, where it was made lately."""
        return self.answers.by_event(event.digest, int(time.time() * 1000) - self.span) if event.repeatable else None

    async def take(self, events: Sequence[Incoming], traced: Headers) -> list[Placed]:
        """Write events that are not known to be there, and say where all of them stand. Raises Problem.

        What is not there in time goes on: who repeats its event waits for the same record.
        """
        oldest = int(time.time() * 1000) - self.span
        found, new = list[_Place | Incoming](), dict[str, Incoming]()
        for event in events:
            place = self._place_of(event, oldest) if event.repeatable else None
            found.append(place or event)
            if place is None:
                new.setdefault(event.digest, event)
        if new:
            found = self._write(found, [*new.values()], traced)
        places = [one for one in found if isinstance(one, _Place)]
        await asyncio.wait({place.arriving for place in places}, timeout=PATIENCE_SECONDS)
        placed = [place.placed for place in places]
        if None in placed:
            raise Problem("broker-away", REPEAT, wait=2)
        return placed  # type: ignore[return-value]

    def _place_of(self, event: Incoming, oldest: int) -> _Place | None:
        place = self._places.get(event.digest) or self._decided(event)
        return None if place is None or place.is_before(oldest) else place

    def _decided(self, event: Incoming) -> _Place | None:
        """Where an event stands that another door took, or this one before it started: its decision tells."""
        known = self.known(event)
        source = None if known is None else orjson.loads(known.value).get("source")
        if source is None or source["topic"] != self.plan.events.input:
            return None
        arriving: Arriving = asyncio.get_running_loop().create_future()
        arriving.set_result([Placed(*(source[name] for name in ("topic", "partition", "offset", "timestamp")))])
        return _Place(arriving, 0)

    def _write(
        self, found: Sequence[_Place | Incoming], new: Sequence[Incoming], traced: Headers
    ) -> list[_Place | Incoming]:
        """Begin to write what is new: the places of all. Raises Problem."""
        topic = self.plan.events.input
        records = [
            Outgoing(topic, partition, event.key, event.value, headers_of(event, traced))
            for event, partition in zip(new, partitions_of(new, self.count), strict=True)
        ]
        try:
            arriving = self.writer.send(records)
        except Away as error:
            raise Problem("broker-away", REPEAT, wait=2) from error
        places = {event.digest: _Place(arriving, number) for number, event in enumerate(new)}
        self._places.update((event.digest, places[event.digest]) for event in new if event.repeatable)
        arriving.add_done_callback(partial(self._arrived, new))
        while len(self._places) > MOST_PLACES:
            self._places.popitem(last=False)
        return [one if isinstance(one, _Place) else places[one.digest] for one in found]

    def _arrived(self, new: Sequence[Incoming], arriving: Arriving) -> None:
        if arriving.exception() is None:
            metrics.TAKEN.labels(self.plan.events.input).inc(len(new))
            return
        for event in new:  # nobody knows: who repeats it writes it again
            if (place := self._places.get(event.digest)) is not None and place.arriving is arriving:
                del self._places[event.digest]

    def decisions_of(self, places: Sequence[Placed]) -> list[str | None]:
        """The ids that the events' decisions will have; ``None`` where one is on its way to another topic first."""
        topic = self.plan.events.topic
        if topic != self.plan.events.input:
            return [None] * len(places)
        rows = np.array([one[1:] for one in places], np.int64).reshape(-1, 3)
        ids = decision_ids(self.plan.pipeline, topic, *rows.T)
        return [None if one.offset < 0 else made for one, made in zip(places, ids, strict=True)]

    async def find(self, decision: str, since: float | None, seconds: float) -> bytes | None:
        """A decision as it holds now, from memory or, for ``seconds`` at most, from its topic. Raises Problem."""
        found = self.answers.newest(decision)
        return found.value if found is not None else await self.history.find(decision, since, seconds)
