"""A model server that does everything that a server can do wrong, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

import orjson
from aiohttp import web

from streamproc.demo.loopback import Loopback
from streamproc.io.http import HttpModel

SECONDS = 0.5
PATH = "/v2/models/m/infer"
Handler: TypeAlias = "Callable[[Server, web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]"


class Server:
    """Serves one handler at ``PATH`` from a thread; ``asked`` are the bodies that came."""

    def __init__(self) -> None:
        self.asked = list[dict[str, Any]]()
        self.headers = list[dict[str, str]]()
        self.connections = set[Any]()
        self.models = list[HttpModel]()
        self.over = asyncio.Event()
        self.handler: Handler = good
        self._loopback = Loopback(PATH, self._answer)

    def start(self) -> None:
        self._loopback.start()
        self.url = f"{self._loopback.url}{PATH}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        return await self.handler(self, request, body)

    def model(self, **more: Any) -> HttpModel:
        """A model that is served here."""
        seconds = timedelta(seconds=more.pop("seconds", SECONDS))
        self.models.append(HttpModel(self.url, ["x", "y"], seconds, **more))
        return self.models[-1]

    def stop(self) -> None:
        for model in self.models:
            model.close()
        self._loopback.loop.call_soon_threadsafe(self.over.set)
        self._loopback.stop()


def scores_of(body: dict[str, Any]) -> list[float]:
    """x / 100, whether each input is a tensor or all are one."""
    first = body["inputs"][0]
    width = first["shape"][1] if len(first["shape"]) > 1 else 1
    return [value / 100 for value in first["data"][::width]]


def reply(data: Any, shape: list[int], **more: Any) -> web.Response:
    content = {"model_name": "m", "outputs": [{"name": "score", "shape": shape, "datatype": "FP64", "data": data}]}
    return web.json_response(content | more)


async def good(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    scores = scores_of(body)
    return reply(scores, [len(scores)])


async def hang(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    await server.over.wait()
    return web.Response(status=500)


async def drip(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A byte now and then: each read is quick, and the answer never ends."""
    response = web.StreamResponse()
    await response.prepare(request)
    while not server.over.is_set():
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


async def reset(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def html(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(text="<html>it works</html>", content_type="text/html")


async def short(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return reply(scores_of(body)[:-1], [len(scores_of(body)) - 1])


async def lying(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return reply(scores_of(body)[:-1], [len(scores_of(body))])


async def empty(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"outputs": []})


async def huge(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(body=b" " * (65 << 20))


def status(code: int) -> Callable[..., Awaitable[web.StreamResponse]]:
    async def handler(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=code, headers={"Location": "http://127.0.0.1:1/"})

    return handler


async def nan(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """No number in any row."""
    count = len(scores_of(body))
    data = ", ".join(["NaN"] * count)
    text = f'{{"outputs": [{{"name": "score", "shape": [{count}], "data": [{data}]}}]}}'
    return web.Response(text=text, content_type="application/json")


async def partial(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A number in every second row."""
    scores = [score if row % 2 else None for row, score in enumerate(scores_of(body))]
    return reply(scores, [len(scores)])


async def bad_json(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(text='{"outputs": [', content_type="application/json")


FAULTS: dict[str, tuple[Handler, str]] = {
    "hang": (hang, "timeout"),
    "drip": (drip, "timeout"),
    "reset": (reset, "model_unavailable"),
    "500": (status(500), "model_error"),
    "429": (status(429), "model_unavailable"),
    "wrong length": (short, "model_error"),
    "NaN": (nan, "not_finite"),
    "bad JSON": (bad_json, "model_error"),
    "slow start": (status(503), "model_unavailable"),
}
"""What a server does, and the reason that its events have no score for."""
