"""A server of chat completions over a real socket, which answers well or in one of the ways in which servers fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from streamproc.demo.llm_server import DONE, HEADERS, PATH, chunk, usage
from streamproc.demo.loopback import Loopback

Behaviour = Callable[["Server", web.Request, dict[str, Any]], Any]


@dataclass
class Server:
    """``behaviour`` answers each request; ``asked`` are the bodies of all of them, ``closed`` how many callers left
    before their answer was whole."""

    behaviour: Behaviour
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    closed: int = 0
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a caller left."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.asked.append(body)
        try:
            response: web.StreamResponse = await self.behaviour(self, request, body)
            return response
        except (asyncio.CancelledError, ConnectionResetError):
            self.closed += 1
            self.left.set()
            raise


USAGE = usage(11, 7)


def said(text: str, finish: str = "stop") -> Behaviour:
    """A whole stream with this text."""
    return stream(chunk(text[:3]), chunk(text[3:]), chunk(finish=finish), USAGE, DONE)


def stream(*parts: bytes, wait: float = 0.0) -> Behaviour:
    """Server-sent events, as they are, ``wait`` seconds before each."""

    async def behaviour(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        for part in parts:
            if wait:
                await asyncio.sleep(wait)
            await response.write(part)
        return response

    return behaviour


def status(code: int, text: str = "", **headers: str) -> Behaviour:
    """A plain response."""

    async def behaviour(server: Server, request: web.Request, body: dict[str, Any]) -> web.Response:
        kind = headers.get("content_type", "text/html")
        return web.Response(
            status=code, text=text, content_type=kind, headers={"Retry-After": headers.get("after", "0")}
        )

    return behaviour


def hang(seconds: float = 30.0) -> Behaviour:
    """Nothing at all."""

    async def behaviour(server: Server, request: web.Request, body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(seconds)
        return web.Response(text="late")

    return behaviour


def reset() -> Behaviour:
    """The connection is broken off."""

    async def behaviour(server: Server, request: web.Request, body: dict[str, Any]) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return behaviour


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The first request is answered by the first one, and so on; all later ones by the last."""

    async def behaviour(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
        return await behaviours[min(len(server.asked), len(behaviours)) - 1](server, request, body)

    return behaviour


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Server]:
    """A server on loopback, until left."""
    server = Server(behaviour)
    loopback = Loopback(PATH, server.handle)
    loopback.start()
    server.url = f"{loopback.url}/v1"
    try:
        yield server
    finally:
        loopback.stop()
