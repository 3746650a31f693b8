"""``GET /v1/decisions``: one decision, by its id or its event's; and all of them as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import orjson
from aiohttp import web

from streamproc import metrics
from streamproc.core.records import lane_of
from streamproc.plan.durations import to_duration
from streamproc.serve.answers import Decided
from streamproc.serve.bodies import written
from streamproc.serve.deciding import shown
from streamproc.serve.names import CALLER, DOOR
from streamproc.serve.problems import Problem, json_response

SEARCH_SECONDS: Final = 10.0
MOST_STREAMS: Final = 100
QUEUE_BYTES: Final = 1 << 20
"""So much waits for one caller; what is more than that ends its stream."""
BEAT_SECONDS: Final = 15.0


async def one(request: web.Request) -> web.StreamResponse:
    """The decision with an id, as it holds now. The id may be the handle that was given for an event."""
    door, wanted = request.app[DOOR], request.match_info["id"]
    if lane_of(wanted) is None:
        found = door.answers.by_event(wanted)
        value = None if found is None else (door.answers.newest(found.id) or found).value
    else:
        value = await door.find(wanted, _since(request), SEARCH_SECONDS)
    if value is None:
        raise Problem("not-found", "there is no such decision yet, or it is older than what was searched")
    return json_response(shown(door.part, value))


async def of_event(request: web.Request) -> web.StreamResponse:
    """The decision of an event, by the event's own id, or the one that this caller gave it."""
    door, caller, event = request.app[DOOR], request[CALLER], request.query.get("event")
    if not event:
        raise Problem("bad-request", "say of which event: `event=ID`")
    digests = (door.checker.of_own(event.encode(errors="replace")), door.checker.of_key(caller.name, event))
    found = next(filter(None, map(door.answers.by_event, digests)), None)
    if found is None:
        raise Problem("not-found", "the event has no decision yet, or an older one than this door knows")
    return json_response(shown(door.part, (door.answers.newest(found.id) or found).value))


def _since(request: web.Request) -> float | None:
    text = request.query.get("since")
    try:
        return None if text is None else to_duration(text).total_seconds()
    except ValueError as error:
        raise Problem("bad-request", f"`since` is no duration: {error}") from error


class _Listener:
    """What waits for one caller who follows decisions."""

    def __init__(self, request: web.Request) -> None:
        key = request.query.get("key")
        self._key = None if key is None else key.encode(errors="replace")
        self._part = request.app[DOOR].part
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self.dropped = False

    def hear(self, decision: Decided, key: bytes | None) -> None:
        """A decision has come."""
        if self.dropped or (self._key is not None and key != self._key):
            return
        if self._bytes > QUEUE_BYTES:
            self.dropped = True
            self._queue.clear()
        else:
            value: Any = shown(self._part, decision.value)
            raw = value if isinstance(value, bytes) else orjson.dumps(value)
            event = b"event: decision\nid: %s\ndata: %s\n\n" % (decision.id.encode(), raw)
            self._queue.append(event)
            self._bytes += len(event)
        self._news.set()

    async def next(self) -> bytes:
        """What is to be written next; a comment where nothing has come for a while."""
        try:
            async with asyncio.timeout(BEAT_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return b": nothing new\n\n"
        self._news.clear()
        if self.dropped:
            return b": dropped: decisions came faster than they were read\n\n"
        news = b"".join(self._queue)
        self._queue.clear()
        self._bytes = 0
        return news


async def stream(request: web.Request) -> web.StreamResponse:
    """Decisions as they come, as server-sent events; those with a key alone where ``key`` names one."""
    door = request.app[DOOR]
    if len(door.answers.listeners) >= MOST_STREAMS:
        raise Problem("too-many", f"{MOST_STREAMS} callers follow decisions already", wait=10)
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response, listener = web.StreamResponse(headers=headers), _Listener(request)
    door.answers.listeners.add(listener.hear)
    try:
        await response.prepare(request)
        await _write(request, response, b": decisions from now on\n\n")
        while True:
            await _write(request, response, await listener.next())
            if listener.dropped:
                metrics.DROPPED.inc()
                return response
    except ConnectionError:
        return response
    finally:
        door.answers.listeners.discard(listener.hear)


async def _write(request: web.Request, response: web.StreamResponse, raw: bytes) -> None:
    """Raises ConnectionError where the caller does not read, or has gone."""
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError
    await written(request, response, raw)
