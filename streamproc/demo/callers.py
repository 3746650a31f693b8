"""Callers of the door: each event at its own moment, and again with the same id until it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

import aiohttp
import orjson

from streamproc.demo.events import Events, traced
from streamproc.demo.ways import Both

CALLERS: Final = 256
"""So many ask at once, each on a connection that it keeps. Of what is due then, the first one waits for the next of
them that is free, and its latency counts that."""
DEADLINE: Final = "2s"
"""How long a caller waits for a decision. Then it is told that there is none yet, and takes that for an answer."""
ASK_SECONDS: Final = 12.0
"""No answer at all: the door gives one at the deadline, or 5 s later where Kafka is slow."""
LATER_SECONDS: Final = 10.0
"""So long after it was told that there is no decision yet, a caller asks once more."""
GIVE_UP_SECONDS: Final = 120.0
SHORTEST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds before an event is sent again, where the door does not say."""
AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
SEED: Final = 7


@dataclass
class Callers:
    """Sends the events of ``both`` to the door at ``url``, ``rate`` of all events a second. ``check`` raises where the
    door has ended: then nobody will answer."""

    url: str
    events: Events
    both: Both
    rate: float
    check: Callable[[], None]
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CALLERS))
    _late: asyncio.Queue[tuple[int, float] | None] = field(default_factory=asyncio.Queue)
    """Those to be asked for again, and when they were answered; nothing once all was sent."""
    _last: dict[bytes, asyncio.Task[None]] = field(default_factory=dict)
    _chance: Random = field(default_factory=lambda: Random(SEED))  # noqa: S311 - not for secrets

    async def run(self) -> None:
        """Send them all, and wait for their answers, which ``both.asked`` then has.

        Late ones are asked for again a while later, with their ids, which must not make other events of them.
        """
        connector = aiohttp.TCPConnector(limit=0)  # there are no more of them than slots
        timeout = aiohttp.ClientTimeout(ASK_SECONDS)
        async with (
            aiohttp.ClientSession(self.url, connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._ask_late(session))
            await self._ask_all(session)
            self._late.put_nowait(None)

    async def _ask_all(self, session: aiohttp.ClientSession) -> None:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in self.both.ways.by_http:
                due = began + number / self.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await self._slots.acquire()
                key = self.events.keys[number]
                task = group.create_task(self._first(session, number, due, self._last.get(key)))
                task.add_done_callback(lambda _: self._slots.release())
                if self.both.ways.in_turn:
                    self._last[key] = task

    async def _ask_late(self, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            while (late := await self._late.get()) is not None:
                number, answered = late
                await asyncio.sleep(max(0.0, answered + LATER_SECONDS - time.perf_counter()))
                await self._slots.acquire()
                group.create_task(self._later(session, number)).add_done_callback(lambda _: self._slots.release())

    async def _first(
        self, session: aiohttp.ClientSession, number: int, due: float, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        asked, answer = self.both.asked, await self._answered(session, number)
        match answer.status:
            case 200 | 202:
                now = time.perf_counter()
                asked.seconds.append(now - due)
                if answer.status == 200:
                    asked.in_time.add(number)
                else:
                    asked.late.add(number)
                    self._late.put_nowait((number, now))
            case 422:
                (asked.dead if "id" in orjson.loads(answer.body) else asked.refused).add(number)
            case _:
                asked.unanswered.add(number)

    async def _later(self, session: aiohttp.ClientSession, number: int) -> None:
        if (await self._answered(session, number)).status == 200:
            self.both.asked.late_answered.add(number)

    async def _answered(self, session: aiohttp.ClientSession, number: int) -> _Answer:
        """What is said at last."""
        until, wait = time.perf_counter() + GIVE_UP_SECONDS, SHORTEST_WAIT
        while (answer := await self._ask(session, number)).again and time.perf_counter() < until:
            if answer.status is None:
                self.check()
            self.both.asked.again[number] += 1
            # callers that were turned away together do not come back together
            await asyncio.sleep((answer.wait or wait) * (1 + self._chance.random() / 2))
            wait = min(2 * wait, LONGEST_WAIT)
        return answer

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> _Answer:
        name, trace = traced(number)
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"demo-{number}", name: trace.decode()}
        body = self.events.values[number]
        try:
            async with session.post(f"/v1/decide?deadline={DEADLINE}", data=body, headers=headers) as answer:
                wait = answer.headers.get("Retry-After", "")
                return _Answer(answer.status, float(wait) if wait.isdigit() else 0.0, await answer.read())
        except (aiohttp.ClientError, TimeoutError):
            return _Answer(None)


@dataclass(frozen=True, slots=True)
class _Answer:
    """``status`` is ``None`` where there was none. ``wait`` is in seconds, 0 where the door does not say."""

    status: int | None
    wait: float = 0.0
    body: bytes = b""

    @property
    def again(self) -> bool:
        return self.status is None or self.status in AGAIN
