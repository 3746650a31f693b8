"""Whether the door works, how it does, and what it takes: the pages that nobody needs a key for, and the metrics."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streamproc import metrics
from streamproc.serve.names import DOOR
from streamproc.serve.problems import json_response


async def healthz(request: web.Request) -> web.Response:
    """The process lives."""
    return json_response({"ok": True})


async def readyz(request: web.Request) -> web.Response:
    """Whether events are taken and decisions read now; 503 otherwise, so that balancers leave this door alone."""
    door = request.app[DOOR]
    said = {
        "ok": door.ready,
        "broker_away": door.away,
        "lag_seconds": round(door.lag.seconds, 3),
        "unread_seconds": round(door.following.behind, 3),
        "waiting": door.answers.waiting,
    }
    return json_response(said, 200 if door.ready else 503, {} if door.ready else {"Retry-After": "2"})


async def serve_metrics(request: web.Request) -> web.Response:
    """For Prometheus."""
    door = request.app[DOOR]
    metrics.WAITING.set(door.answers.waiting)
    metrics.STREAMS.set(len(door.answers.listeners))
    metrics.DOOR_BYTES.labels("events").set(door.writer.bytes + door.sayer.bytes)
    metrics.DOOR_BYTES.labels("decisions").set(door.answers.size)
    metrics.DOOR_LAG.set(door.lag.seconds)
    metrics.DOOR_UNREAD.set(door.following.behind)
    metrics.DOOR_AWAY.set(door.away)
    return web.Response(body=generate_latest(metrics.DOOR_REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})
