"""``POST /v1/decide``: an event in, its decision out, or what is said at the deadline."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import orjson
from aiohttp import web

from streamproc import metrics
from streamproc.core.records import DUPLICATE, TYPED, DeadLetter
from streamproc.plan.durations import to_duration
from streamproc.plan.serve_parts import SafePart, ServePart
from streamproc.serve.bodies import kind_of, whole
from streamproc.serve.callers import Caller
from streamproc.serve.door import Door
from streamproc.serve.events import Incoming, told, trace_headers
from streamproc.serve.names import CALLER, DOOR
from streamproc.serve.problems import JSON, Problem, json_response
from streamproc.serve.taking import checked, idempotency_key, places_of
from streamproc.serve.writing import Away, Outgoing, Placed

REPLAYED: Final = {"Idempotent-Replayed": "true"}
EVENT_ID: Final = "Streamproc-Event"
LEAST_SEARCH: Final = 0.05
LONG_AGO: Final = 5.0
"""Seconds after which an event has been decided, or lanes are behind: then its decision is looked for."""


async def decide(request: web.Request) -> web.StreamResponse:
    """The handler."""
    door, caller, began = request.app[DOOR], request[CALLER], time.monotonic()
    until = began + deadline_of(request, door.part)
    if kind_of(request) != JSON:
        raise Problem("unsupported", f"one event, as {JSON}")
    value = (await whole(request, door.part.event, door.part.timeout.total_seconds())).strip()
    [event] = checked(door, caller, [value], [idempotency_key(request)])
    if isinstance(event, DeadLetter):
        raise Problem("refused", "the event does not satisfy the contract", errors=[told(event)])
    door.admit(caller, 1)
    if (known := door.known(event)) is not None:
        return answered(door.part, event, known.value, REPLAYED)
    with door.answers.wait_for(event.digest) as waiter:
        was_there = door.has(event)
        [place] = await door.take([event], trace_headers(request.headers))
        if not waiter.done() and (known := door.known(event)) is not None:
            return await _seen(request, event, place, known.value, until - began, known.id)
        ago, [decision] = time.time() - place.timestamp / 1000, door.decisions_of([place])
        if was_there and decision is not None and ago > LONG_AGO and not waiter.done():
            earlier = await _first(door, event, decision, until, ago + 1)  # it was decided, and forgotten here
            if earlier is not None:
                return await _seen(request, event, place, earlier, until - began, decision)
        await asyncio.wait({waiter}, timeout=max(0.0, until - time.monotonic()))
        answer = waiter.result() if waiter.done() else None
    if isinstance(answer, DeadLetter):
        return await _refused(request, event, place, answer, until, until - began)
    if answer is None:
        return await _too_late(request, event, place, until - began)
    return await _seen(request, event, place, answer.value, until - began)


def has_gone(request: web.Request) -> bool:
    """Whether nobody is there any more who would read an answer."""
    return request.transport is None or request.transport.is_closing()


def deadline_of(request: web.Request, part: ServePart) -> float:
    """How long the caller waits, in seconds. Raises Problem."""
    text = request.query.get("deadline")
    if text is None:
        return part.deadline.total_seconds()
    try:
        deadline = to_duration(f"{text}ms" if re.fullmatch(r"\d{1,9}", text, re.ASCII) else text)
    except ValueError as error:
        raise Problem("bad-request", f"`deadline` is no duration: {error}") from error
    if not deadline or deadline > part.longest:
        raise Problem("bad-request", f"`deadline` is more than 0, and {part.longest.total_seconds():g} s at most")
    return deadline.total_seconds()


def answered(
    part: ServePart, event: Incoming, value: bytes, more: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """The decision, or those fields of it that callers are given."""
    return json_response(shown(part, value), headers={EVENT_ID: header_text(event.id), **(more or {})})


def shown(part: ServePart, value: bytes) -> Any:
    """What callers are given of a decision."""
    if not part.answer:
        return value
    decision = orjson.loads(value)
    return {name: decision.get(name) for name in part.answer}


def header_text(text: str) -> str:
    """A text as it may stand in a header."""
    return "".join(one if " " <= one <= "~" else "?" for one in text[:200])


async def _seen(
    request: web.Request, event: Incoming, place: Placed, value: bytes, deadline: float, replayed: str | None = None
) -> web.StreamResponse:
    """The decision that was waited for, once it is on record where the caller has gone. ``replayed`` is its id where it
    was made for an earlier sending of the event."""
    door = request.app[DOOR]
    if has_gone(request):
        await mark(door, request[CALLER], event, place, None, deadline, replayed)
    return answered(door.part, event, value, None if replayed is None else REPLAYED)


async def _refused(
    request: web.Request, event: Incoming, place: Placed, letter: DeadLetter, until: float, deadline: float
) -> web.StreamResponse:
    """What a dead letter comes to: a duplicate's answer is the first one's."""
    door = request.app[DOOR]
    if letter.reason != DUPLICATE or not letter.first:
        raise Problem("refused", "the pipeline refused the event", id=event.id, errors=[told(letter)])
    value = await _first(door, event, letter.first, until, _seconds(door))
    if value is not None:
        return await _seen(request, event, place, value, deadline, letter.first)
    said = None if has_gone(request) else "decided"
    await mark(door, request[CALLER], event, place, said, deadline, letter.first)
    metrics.LATE.labels("decided").inc()
    body = {"status": "decided", "id": event.id, "decision_id": letter.first, "href": f"/v1/decisions/{letter.first}"}
    return json_response(body, 202, {"Location": body["href"], **REPLAYED})


async def _first(door: Door, event: Incoming, decision: str, until: float, since: float | None) -> bytes | None:
    """The decision that an event repeats, made in the last ``since`` seconds. What a door is told of it may come behind
    the dead letter of a duplicate."""
    with door.answers.wait_for(event.digest) as waiter:
        if (known := door.answers.by_id(decision)) is not None:
            return known.value
        with suppress(Problem):
            left = max(LEAST_SEARCH, until - time.monotonic())
            if (value := await door.find(decision, since, left)) is not None:
                return value
        await asyncio.wait({waiter}, timeout=max(0.0, until - time.monotonic()))
    known = door.answers.by_id(decision)
    return None if known is None else known.value


def _seconds(door: Door) -> float | None:
    dedupe = door.plan.events.dedupe
    return None if dedupe is None else dedupe.total_seconds()


async def _too_late(request: web.Request, event: Incoming, place: Placed, deadline: float) -> web.StreamResponse:
    """What is said at the deadline, once it is on record that the caller has not seen the decision."""
    door = request.app[DOOR]
    safe = door.part.on_deadline
    decision = safe.decide if isinstance(safe, SafePart) else None
    said = None if has_gone(request) else decision or "pending"
    await mark(door, request[CALLER], event, place, said, deadline)
    metrics.LATE.labels(decision or "pending").inc()
    [where] = places_of(door, [event], [place])
    if decision is None:
        return json_response({"status": "pending", **where}, 202, {"Location": where["href"]})
    return json_response({"status": "deadline", "decision": decision, "tier": "deadline", **where})


async def mark(
    door: Door,
    caller: Caller,
    event: Incoming,
    place: Placed,
    said: str | None,
    deadline: float,
    first: str | None = None,
) -> None:
    """Put on record that a caller has not seen a decision: what it was told instead, ``None`` where it had gone.

    ``first`` is the id of the decision where the event is a duplicate. A broker that is away now has the mark later,
    unless the door ends before.
    """
    record = {
        "event": event.digest,
        "decision_id": first or door.decisions_of([place])[0],
        "source": {
            "topic": place.topic,
            "partition": place.partition,
            "offset": place.offset,
            "timestamp": place.timestamp,
        },
        "said": said,
        "deadline": round(deadline, 6),
        "caller": caller.name,
        "time": int(time.time() * 1000),
    }
    topic = door.plan.topics.unseen
    outgoing = Outgoing(topic, None, event.digest.encode(), orjson.dumps(record), TYPED["unseen"])
    try:
        await door.sayer.write([outgoing])
    except Away:
        metrics.UNMARKED.inc()
