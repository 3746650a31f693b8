"""One server of an OpenAI-compatible API: one call to it, and how it is doing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from streamproc.errors import UserError
from streamproc.io.breaker import Breaker, BreakerPolicy
from streamproc.io.connections import TooLarge, body_of
from streamproc.io.llm.stream import Broken, Completion, Events, take, whole

LARGEST = 1 << 20
"""Bytes of an answer that is not streamed."""
LONGEST_TEXT = 1 << 16
"""Characters that a model may write: they may come to stand in a record."""
LAST_SECONDS = 0.05
"""So long the end of a stream is waited for once all of it was said, to have the connection for the next call."""
TRY_ELSEWHERE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that are about the server or the moment. Others are about what was asked, and would come again."""
TOO_MANY = frozenset({429, 529})
LONGEST_PAUSE = 60.0
HINT = "write http://HOST:PORT/v1, without a password"
KEY_HINT = "look for a line break within `model.llm.key`"


class Failed(Exception):
    """A call came to nothing, and another one may do better. ``reason`` is what stands in the decision.

    ``after``: the server wants to be left alone for so many seconds. ``free``: it has answered nothing, and will take
    no money for it.
    """

    def __init__(self, reason: str, what: str, after: float = 0.0, *, free: bool = False) -> None:
        super().__init__(what)
        self.reason, self.after, self.free = reason, after, free


class Refused(Exception):
    """The call was refused, and there is no use in making it again. ``reason`` is what stands in the decision."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass
class Endpoint:
    """``url`` is that of ``…/v1``; ``headers`` hold the key."""

    url: str
    headers: Mapping[str, str]
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", self.url):
            raise UserError("the address of a language model is none", HINT)
        try:
            urlsplit(self.url).port  # noqa: B018 - it looks at the number
        except ValueError as error:
            raise UserError("the port of a language model's address is none", HINT) from error
        if any(not value.isprintable() for value in self.headers.values()):
            raise UserError("the key of a language model has characters in it that no header may have", KEY_HINT)
        self._url = self.url.rstrip("/") + "/chat/completions"
        self.state = Breaker(self.breaker)
        self.quiet_until = 0.0
        """Monotonic seconds until which the server wants to be left alone."""

    async def complete(self, session: aiohttp.ClientSession, body: Mapping[str, Any]) -> Completion:
        """One call. Raises Failed, Refused; whoever gives up on it cancels it, and that closes its connection."""
        try:
            async with session.post(
                self._url, data=orjson.dumps(body), headers=self.headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise _status(response)
                try:
                    if response.content_type == "text/event-stream":
                        return await _streamed(response)
                    return _short(whole(await body_of(response, LARGEST)))
                except BaseException:
                    response.close()  # what is left of it must not come back with the next call on this connection
                    raise
        except (Broken, TooLarge) as error:
            raise Failed("model_error", str(error)) from error
        except aiohttp.ClientConnectorError as error:
            raise Failed("model_unavailable", type(error).__name__, free=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Failed("model_unavailable", type(error).__name__) from error


def _status(response: aiohttp.ClientResponse) -> Exception:
    status = response.status
    if status in TOO_MANY:
        return Failed("rate_limited", f"status {status}", _retry_after(response), free=True)
    if status in TRY_ELSEWHERE:
        return Failed("model_unavailable", f"status {status}", _retry_after(response), free=True)
    return Refused("model_error", f"status {status}")


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds, as far as the header states them; dates are not read."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), LONGEST_PAUSE) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) else 0.0


async def _streamed(response: aiohttp.ClientResponse) -> Completion:
    events, completion = Events(), Completion()
    async for chunk in response.content.iter_any():
        for data in events.feed(chunk):
            if take(completion, data):
                await _end(response)
                return completion
            _short(completion)
    raise Broken("the stream ended before its end")


async def _end(response: aiohttp.ClientResponse) -> None:
    """Wait a little for the end of the stream: a connection that is left before is closed."""
    try:
        async with asyncio.timeout(LAST_SECONDS):
            async for _ in response.content.iter_any():
                pass
    except TimeoutError:
        response.close()


def _short(completion: Completion) -> Completion:
    if completion.size > LONGEST_TEXT:
        raise Broken("the answer is too large")
    return completion
