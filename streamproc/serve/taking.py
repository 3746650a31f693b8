"""``POST /v1/events``: events in, as one JSON document or as lines, and where each stands now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import orjson
from aiohttp import web

from streamproc import metrics
from streamproc.core.records import DeadLetter
from streamproc.serve.bodies import NDJSON, hold, kind_of, lines, whole, written
from streamproc.serve.callers import Caller
from streamproc.serve.door import Door
from streamproc.serve.events import IDEMPOTENCY_KEY, Incoming, told, trace_headers
from streamproc.serve.names import CALLER, DOOR
from streamproc.serve.problems import JSON, Problem, json_response
from streamproc.serve.writing import Placed

GROUP: Final = 1_000
GROUP_BYTES: Final = 1 << 20
"""So much is written at once, and not more is held of a body."""
TURN: Final = 250
"""So many lines are checked without a turn for others."""
WHOLE: Final = 2_000
"""Up to so many lines are answered by one document, whose status tells whether all were taken."""
MOST_TOLD: Final = 100
"""Bad lines that a summary tells of."""


def idempotency_key(request: web.Request) -> str | None:
    """The id that the caller gave the request. Raises Problem."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise Problem("bad-request", "Idempotency-Key has 1 to 200 printable characters")
    return key


def checked(
    door: Door, caller: Caller, values: Sequence[bytes | None], keys: Sequence[str | None]
) -> list[Incoming | DeadLetter]:
    """The events, or why they are not taken."""
    most = min(door.part.event, door.largest)
    sizes = [most + 1 if value is None else len(value) for value in values]
    fitting = [number for number, size in enumerate(sizes) if size <= most]
    events = list[Incoming | DeadLetter]([_too_large(f"an event has at most {most} bytes")]) * len(values)
    sound = door.checker.check([values[number] or b"" for number in fitting], caller.name, [keys[n] for n in fitting])
    for number, event in zip(fitting, sound, strict=True):
        large = isinstance(event, Incoming) and len(event.value) + len(event.key or b"") > door.largest
        events[number] = _too_large(f"an event and its key have at most {door.largest} bytes") if large else event
    for event in events:
        if isinstance(event, DeadLetter):
            metrics.TURNED_AWAY.labels(event.reason).inc()
    return events


def _too_large(detail: str) -> DeadLetter:
    return DeadLetter("contract", "too_large", "$", detail)


def places_of(door: Door, events: Sequence[Incoming], places: Sequence[Placed]) -> list[dict[str, Any]]:
    """Ids and coordinates of events, as callers are told them."""
    return [
        {
            "id": event.id,
            "decision_id": decision,
            "topic": place.topic,
            "partition": place.partition,
            "offset": None if place.offset < 0 else place.offset,
            "timestamp": place.timestamp,
            "href": f"/v1/decisions/{decision or event.digest}",
        }
        for event, place, decision in zip(events, places, door.decisions_of(places), strict=True)
    ]


async def take_events(request: web.Request) -> web.StreamResponse:
    """The handler."""
    if request.query.getall("answer", ["summary"]) != ["summary"]:
        raise Problem("bad-request", "`answer` is `summary`, or not there")
    if kind_of(request) == JSON:
        return await _one(request)
    return await _many(request)


async def _one(request: web.Request) -> web.StreamResponse:
    door, caller = request.app[DOOR], request[CALLER]
    value = (await whole(request, door.part.event, door.part.timeout.total_seconds())).strip()
    [event] = checked(door, caller, [value], [idempotency_key(request)])
    if isinstance(event, DeadLetter):
        raise Problem("refused", "the event does not satisfy the contract", errors=[told(event)])
    door.admit(caller, 1)
    [where] = places_of(door, [event], await door.take([event], trace_headers(request.headers)))
    return json_response(where, 202, {"Location": where["href"]})


class _Told:
    """What is told of lines: kept while they are few, and then written line by line."""

    def __init__(self, request: web.Request, summary: bool) -> None:
        self._request, self._summary = request, summary
        self._stream: web.StreamResponse | None = None
        self.accepted, self.refused = list[Any](), list[Any]()
        self.taken = self.bad = 0
        self.failed: Problem | None = None

    async def add(self, accepted: Iterable[Any], refused: Iterable[Any]) -> None:
        """Tell of some lines."""
        good, bad = list(accepted), list(refused)
        self.taken, self.bad = self.taken + len(good), self.bad + len(bad)
        if self._summary:
            self.refused += bad[: MOST_TOLD - len(self.refused)]
            return
        self.accepted += good
        self.refused += bad
        if self._stream is not None or len(self.accepted) + len(self.refused) > WHOLE:
            await self._write([*self.accepted, *({"error": one, "line": one["line"]} for one in self.refused)])
            self.accepted, self.refused = [], []

    async def end(self) -> web.StreamResponse:
        """The answer, once there are no more lines."""
        if self._stream is not None:
            last = {"taken": self.taken, "refused": self.bad}
            await self._write([last if self.failed is None else {**last, "problem": self.failed.document}])
            await self._stream.write_eof()
            return self._stream
        body: dict[str, Any] = {"taken": self.taken}
        if not self._summary:
            body["accepted"] = self.accepted
        if self.failed is not None:
            more = {**body, "errors": self.refused}
            raise Problem(self.failed.kind, self.failed.detail, wait=self.failed.wait, **self.failed.more | more)
        if self.bad:
            counted = {**body, "refused": self.bad, "errors": self.refused}
            raise Problem("refused", f"{self.bad} of {self.bad + self.taken} lines are no events", **counted)
        return json_response({**body, "refused": 0}, 202)

    async def _write(self, rows: Iterable[Any]) -> None:
        """Raises ConnectionResetError where the caller does not read."""
        if self._stream is None:
            self._stream = web.StreamResponse(status=202, headers={"Content-Type": NDJSON[0]})
            await self._stream.prepare(self._request)
        raw = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        await written(self._request, self._stream, raw)


async def _many(request: web.Request) -> web.StreamResponse:
    door, caller = request.app[DOOR], request[CALLER]
    key, traced = idempotency_key(request), trace_headers(request.headers)
    telling, through = _Told(request, request.query.get("answer") == "summary"), 0
    try:
        async for group in _groups(lines(request, door.part.event, door.part.timeout.total_seconds())):
            found = list[tuple[int, Incoming | DeadLetter]]()
            for begin in range(0, len(group), TURN):
                several = group[begin : begin + TURN]
                keys = [key and f"{key}/{number}" for number, _ in several]
                events = checked(door, caller, [line for _, line in several], keys)
                found += zip([number for number, _ in several], events, strict=True)
                await asyncio.sleep(0)  # others have their turn
            bad = [told(event, number) for number, event in found if isinstance(event, DeadLetter)]
            good = [(number, event) for number, event in found if not isinstance(event, DeadLetter)]
            places = list[Placed]()
            if good:
                door.admit(caller, len(good))
                places = await door.take([event for _, event in good], traced)
            told_of = places_of(door, [event for _, event in good], places)
            await telling.add(({"line": number, **one} for (number, _), one in zip(good, told_of, strict=True)), bad)
            through = group[-1][0]
            hold(request, -sum(len(line or b"") for _, line in group))
    except Problem as problem:
        problem.more["through_line"] = through  # what is known of the lines behind it is nothing
        telling.failed = problem
    return await telling.end()


async def _groups(numbered: AsyncIterator[tuple[int, bytes | None]]) -> AsyncIterator[list[tuple[int, bytes | None]]]:
    group, size = list[tuple[int, bytes | None]](), 0
    async for number, line in numbered:
        group.append((number, line))
        size += len(line or b"")
        if len(group) >= GROUP or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
