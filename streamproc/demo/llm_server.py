"""A server of chat completions for demonstrations: slow now and then, away for a while, and bounded in its rate.

It knows nothing but its requests. A function of their two messages answers, in place of a model.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp
from random import Random
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import orjson
from aiohttp import web

from streamproc.demo.loopback import Loopback

PATH = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
HEADERS = {"Content-Type": "text/event-stream"}
PIECES = 4
BYTES_PER_TOKEN = 4
Outage: TypeAlias = Literal["hangs", "breaks off"]
Model: TypeAlias = Callable[[str, str], str]
"""What is answered to the messages of the system and of the user."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds until an answer begins: log-normal around ``median``, and ``slow_seconds`` for the share ``slow``."""

    median: float = 0.08
    spread: float = 0.4
    slow: float = 0.02
    slow_seconds: float = 2.0

    def draw(self, chance: Random) -> float:
        """The seconds of one call."""
        usual = self.median * exp(self.spread * chance.gauss(0.0, 1.0))
        return self.slow_seconds if chance.random() < self.slow else usual


@dataclass(slots=True)
class Served:
    """What the server has seen: ``calls`` in all, and what became of them. ``left``: their callers did not wait.
    ``largest``: the most tokens that one of them took."""

    calls: int = 0
    answered: int = 0
    slow: int = 0
    left: int = 0
    limited: int = 0
    away: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    largest: int = 0


@dataclass
class LlmServer:
    """Answers by ``model``. ``most_per_second`` calls are taken, the others have status 429.

    While there is an ``outage`` calls hang, or their connections are broken off.
    """

    model: Model
    seed: int
    pace: Pace = field(default_factory=Pace)
    most_per_second: int = 200
    outage: Outage | None = None
    served: Served = field(default_factory=Served)

    def __post_init__(self) -> None:
        self._loopback = Loopback(PATH, self._handle)
        self._chance = Random(self.seed)  # noqa: S311 - not for secrets
        self._recent = deque[float]()

    def __enter__(self) -> Self:
        self._loopback.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loopback.stop()

    @property
    def url(self) -> str:
        """The address up to ``/v1``."""
        return f"{self._loopback.url}/v1"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.served.calls += 1
        try:
            return await self._answer(request, orjson.loads(await request.read()))
        except (asyncio.CancelledError, ConnectionResetError):
            self.served.left += 1
            raise

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seconds = self.pace.draw(self._chance)
        if self.outage is not None:
            self.served.away += 1
            return await _away(request, self.outage)
        if self._is_too_much(time.monotonic()):
            self.served.limited += 1
            return web.Response(status=429, headers={"Retry-After": "1"})
        self.served.slow += seconds == self.pace.slow_seconds
        await asyncio.sleep(seconds)
        system, user = (str(message["content"]) for message in body["messages"][:2])
        text = self.model(system, user)
        took = [_tokens(system) + _tokens(user), _tokens(text)]
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        size = -(-len(text) // PIECES)
        for at in range(0, len(text), size):
            await response.write(chunk(text[at : at + size]))
        await response.write(chunk(finish="stop") + usage(*took) + DONE)
        self.served.answered += 1
        self.served.prompt_tokens += took[0]
        self.served.completion_tokens += took[1]
        self.served.largest = max(self.served.largest, sum(took))
        return response

    def _is_too_much(self, now: float) -> bool:
        while self._recent and now - self._recent[0] >= 1.0:
            self._recent.popleft()
        if len(self._recent) >= self.most_per_second:
            return True
        self._recent.append(now)
        return False


async def _away(request: web.Request, outage: Outage) -> web.StreamResponse:
    if outage == "hangs":
        await asyncio.Event().wait()
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """A piece of a streamed answer, as a server-sent event."""
    delta = {} if text is None else {"content": text}
    body = {"model": "stub-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return b"data: " + orjson.dumps(body) + b"\n\n"


def usage(prompt: int, completion: int) -> bytes:
    """What a streamed answer took, as a server-sent event."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return b"data: " + orjson.dumps({"choices": [], "usage": counts}) + b"\n\n"
