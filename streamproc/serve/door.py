"""The door itself: what it takes, what it refuses, and where that goes. It knows no HTTP."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final

import numpy as np

from streamproc import metrics
from streamproc.core.decide.events import decision_ids
from streamproc.core.plan import Plan
from streamproc.core.processor import Headers
from streamproc.plan.serve_parts import ServePart
from streamproc.serve.answers import Answers, Decided
from streamproc.serve.callers import Caller, Rates
from streamproc.serve.events import Checker, Incoming, headers_of, partition_of
from streamproc.serve.history import History
from streamproc.serve.lag import Lag
from streamproc.serve.problems import Problem
from streamproc.serve.writing import Away, Outgoing, Placed, Writer

MOST_PLACES: Final = 50_000
"""So many events are known to have been taken."""
SILENT_SECONDS: Final = 6.0
MILLISECOND: Final = timedelta(milliseconds=1)
REPEAT: Final = "nobody knows whether it was taken: send it again, with the same id"


@dataclass(slots=True)
class Door:
    """Everything that a request needs. ``count`` is of the partitions of the topic that events are written to,
    ``largest`` the bytes that a record of it may have."""

    plan: Plan
    part: ServePart
    checker: Checker
    writer: Writer
    answers: Answers
    history: History
    lag: Lag
    rates: Rates
    count: int
    largest: int
    _places: dict[str, asyncio.Future[Placed]] = field(default_factory=dict)

    @property
    def span(self) -> int:
        """For how long an answer is that of a repeated event too, in milliseconds."""
        known = self.part.look_back
        return (known if self.plan.events.dedupe is None else min(known, self.plan.events.dedupe)) // MILLISECOND

    @property
    def ready(self) -> bool:
        """Whether events can be taken now."""
        return not self.writer.away and self.lag.silent < SILENT_SECONDS and not self._behind

    @property
    def _behind(self) -> bool:
        most = self.part.max_lag
        return most is not None and self.lag.seconds > most.total_seconds()

    def admit(self, caller: Caller, events: int) -> None:
        """Raises Problem where so many events cannot be taken now."""
        if self.writer.away or self.lag.silent > SILENT_SECONDS:
            raise Problem("broker-away", "the broker does not answer: nothing was taken", wait=2)
        if self._behind:
            raise Problem(
                "behind", f"the oldest event has waited for {self.lag.seconds:.0f} s: nothing was taken", wait=5
            )
        if self.writer.bytes > self.part.bytes:
            raise Problem("too-many", "so many events are on their way that no more are taken", wait=1)
        if wait := self.rates.take(caller, events):
            raise Problem("too-many", f"{caller.name} sends more events than it may", wait=math.ceil(wait))

    def known(self, event: Incoming) -> Decided | None:
        """The decision of an event that was sent before, where it was made lately."""
        return self.answers.by_event(event.digest, int(time.time() * 1000) - self.span) if event.repeatable else None

    async def take(self, events: Sequence[Incoming], traced: Headers) -> list[Placed]:
        """Write events that are not known to be there, and say where all of them stand. Raises Problem."""
        oldest = int(time.time() * 1000) - self.span
        places, new = list[asyncio.Future[Placed]](), list[Incoming]()
        owed = list[asyncio.Future[Placed]]()
        for event in events:
            place = self._places.get(event.digest) if event.repeatable else None
            if place is None or (place.done() and place.result().timestamp < oldest):
                place = asyncio.get_running_loop().create_future()
                new.append(event)
                owed.append(place)
                if event.repeatable:
                    self._places[event.digest] = place
            places.append(place)
        if new:
            await self._write(new, owed, traced)
        try:
            return list(await asyncio.gather(*map(asyncio.shield, places)))
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise Problem("broker-away", REPEAT, wait=2) from None  # another request was to write it, and could not

    async def _write(self, new: Sequence[Incoming], owed: Sequence[asyncio.Future[Placed]], traced: Headers) -> None:
        topic = self.plan.events.input
        records = [
            Outgoing(topic, partition_of(event, self.count), event.key, event.value, headers_of(event, traced))
            for event in new
        ]
        try:
            found = await self.writer.write(records)
        except BaseException as error:
            for event, place in zip(new, owed, strict=True):
                place.cancel()
                if self._places.get(event.digest) is place:
                    del self._places[event.digest]
            if isinstance(error, Away):
                raise Problem("broker-away", REPEAT, wait=2) from error
            raise
        for place, one in zip(owed, found, strict=True):
            place.set_result(one)
        metrics.TAKEN.labels(topic).inc(len(new))
        for digest in list(islice(self._places, max(0, len(self._places) - MOST_PLACES))):
            del self._places[digest]

    def decision_of(self, place: Placed) -> str | None:
        """The id that the event's decision will have; ``None`` where the event is on its way to another topic first."""
        if place.topic != self.plan.events.topic or place.offset < 0:
            return None
        where = (np.array([number], np.int64) for number in (place.partition, place.offset, place.timestamp))
        return decision_ids(self.plan.pipeline, place.topic, *where)[0]

    async def find(self, decision: str, since: float | None, seconds: float) -> bytes | None:
        """A decision as it holds now, from memory or, for ``seconds`` at most, from its topic. Raises Problem."""
        found = self.answers.newest(decision)
        return found.value if found is not None else await self.history.find(decision, since, seconds)
