"""The web application: routes, who may use them, and what is answered where something is wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from streamproc import metrics
from streamproc.core.signatures import Signatures
from streamproc.serve import asking, deciding, docs, openapi, pages, saying, taking
from streamproc.serve.bodies import release
from streamproc.serve.callers import ANYBODY, Caller, Keys, Scope
from streamproc.serve.door import Door
from streamproc.serve.names import CALLER, DOOR, KEYS, SIGNATURES
from streamproc.serve.problems import Problem

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """What is done where. Without a scope nobody needs a key; ``holds``: it does not count among requests at once."""

    method: str
    path: str
    handler: Handler
    scope: Scope | None = None
    holds: bool = False


ROUTES: Final = (
    Route("POST", "/v1/events", taking.take_events, "events"),
    Route("POST", "/v1/decide", deciding.decide, "events"),
    Route("GET", "/v1/decisions/stream", asking.stream, "decisions", holds=True),
    Route("GET", "/v1/decisions/{id}", asking.one, "decisions"),
    Route("GET", "/v1/decisions", asking.of_event, "decisions"),
    Route("POST", "/v1/verdicts", saying.say, "verdicts"),
    Route("POST", "/v1/outcomes", saying.came_true, "outcomes"),
    Route("GET", "/healthz", pages.healthz),
    Route("GET", "/readyz", pages.readyz),
    Route("GET", "/openapi.json", openapi.openapi),
    Route("GET", "/", docs.docs),
    Route("GET", "/metrics", pages.serve_metrics, "metrics"),
)
BY_PATH: Final = {(route.method, route.path): route for route in ROUTES}


class _Requests:
    """How many requests are being answered."""

    def __init__(self, most: int) -> None:
        self._most, self._now = most, 0

    def __enter__(self) -> None:
        if self._now >= self._most:
            raise Problem("too-many", f"{self._most} requests are being answered", wait=1)
        self._now += 1

    def __exit__(self, *exc: object) -> None:
        self._now -= 1


def application(door: Door, keys: Keys, signatures: Signatures) -> web.Application:
    """The application of a door."""
    requests = _Requests(door.part.requests)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began, resource = time.monotonic(), request.match_info.route.resource
        route = BY_PATH.get((request.method.replace("HEAD", "GET"), "" if resource is None else resource.canonical))
        name, status = "none" if route is None else route.path, 500
        try:
            response = await _answer(request, handler, route, requests)
            status = response.status
            return response
        finally:
            release(request)
            metrics.REQUESTS.labels(name, str(status)).inc()
            metrics.REQUEST_SECONDS.labels(name).observe(time.monotonic() - began)

    app = web.Application(middlewares=[middleware])
    app[DOOR], app[KEYS], app[SIGNATURES] = door, keys, signatures
    for route in ROUTES:
        app.router.add_route(route.method, route.path, route.handler)
    return app


async def _answer(
    request: web.Request, handler: Handler, route: Route | None, requests: _Requests
) -> web.StreamResponse:
    try:
        if route is not None and route.scope is not None:
            request[CALLER] = _caller(request, route.scope)
        if route is None or route.holds or route.scope is None:
            return await handler(request)
        with requests:
            return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPMethodNotAllowed as error:
        response = Problem("method-not-allowed", f"allowed: {', '.join(sorted(error.allowed_methods))}").response()
        response.headers["Allow"] = error.headers["Allow"]
        return response
    except web.HTTPException as error:
        kind = {404: "not-found", 413: "too-large", 415: "unsupported"}.get(error.status, "bad-request")
        return Problem(kind, error.reason).response()
    except (ConnectionError, web.RequestPayloadError):
        return Problem("bad-request", "the body ended before its end").response()
    except Exception as error:
        # Of what went wrong only where: its text may quote an event.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = "" if trace is None else f" at {trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
        log.error("a request failed: %s%s", type(error).__name__, place)
        return Problem("bug", "it is logged where").response()


def _certified(request: web.Request) -> str | None:
    """The name in the caller's certificate, where callers have one."""
    shown = None if request.transport is None else request.transport.get_extra_info("peercert")
    names = [value for part in (shown or {}).get("subject", ()) for name, value in part if name == "commonName"]
    return names[0] if names else None


def _caller(request: web.Request, scope: Scope) -> Caller:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    given = key.strip() if scheme.lower() == "bearer" else request.headers.get("X-API-Key")
    caller = request.app[KEYS].caller(given)
    if caller is ANYBODY and (name := _certified(request)) is not None:
        return Caller(name)
    if caller is None:
        raise Problem("unauthorized", "send `Authorization: Bearer KEY`")
    if scope not in caller.scopes:
        raise Problem("forbidden", f"the key of {caller.name} is not for {scope}")
    return caller
