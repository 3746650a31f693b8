"""From agents to a running worker: a Faust application whose agents hand each batch to their lane."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import secrets
import signal
import sys
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field

import faust
import orjson
from faust.web.base import Request, Response
from faust.web.views import View
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streamproc import metrics
from streamproc.core.processor import NOTHING_SEEN
from streamproc.kafka.agent import Agent, Answerer, SeenNow
from streamproc.kafka.connection import Connection, probe, require
from streamproc.kafka.lane import Fetched
from streamproc.kafka.lanes import Lanes, LaneSettings
from streamproc.kafka.runner import no_answers
from streamproc.kafka.transport import PARTITION_BYTES, LaneSchema

log = logging.getLogger(__name__)

PROBE_SECONDS = 30.0
STOP_SECONDS = 15.0
SWITCH_SECONDS = 0.001
"""How long a thread keeps the interpreter: a transaction is a dozen short turns of the event loop, each of which would
otherwise wait 5 ms for a processor that computes."""

PAGES = """\
/healthz   JSON: the lanes, their positions, what is stuck; status 503 unless all is well
/metrics   for Prometheus
"""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How one worker process runs. Times are in seconds, sizes in bytes; no ``web_port`` means no web server."""

    session_timeout: float = 6.0
    heartbeat: float = 1.0
    rebalance_timeout: float = 20.0
    partition_bytes: int = PARTITION_BYTES
    web_host: str = "127.0.0.1"
    web_port: int | None = None
    lanes: LaneSettings = field(default_factory=LaneSettings)


class App(faust.App):
    """A Faust application with lanes."""

    logger = logging.getLogger("faust.lanes")
    lanes: Lanes
    connection: Connection
    partition_bytes: int

    def _create_directories(self) -> None:
        """Faust's tables would be kept there; ours are not."""


def build_app(
    name: str,
    agents: Sequence[Agent],
    connection: Connection,
    dead_letters: str,
    settings: WorkerSettings,
    *,
    answerer: Answerer = no_answers,
    seen: SeenNow = lambda: NOTHING_SEEN,
) -> App:
    """The Faust application of one worker, with one Faust agent for each of ours."""
    app = App(
        name,
        # Faust reads some eighty settings from the environment; none of them is a user's way to configure us.
        env_prefix="STREAMPROC_FAUST_",
        broker=f"lanes://{connection.address}",
        store="memory://",
        topic_disable_leader=True,
        stream_wait_empty=False,
        stream_buffer_maxsize=256,
        broker_session_timeout=settings.session_timeout,
        broker_heartbeat_interval=settings.heartbeat,
        broker_rebalance_timeout=settings.rebalance_timeout,
        broker_request_timeout=30.0,
        broker_commit_interval=3600.0,
        table_standby_replicas=0,
        web_enabled=settings.web_port is not None,
        web_host=settings.web_host,
        web_bind=settings.web_host,
        web_port=settings.web_port or 6066,
        web_stats_enabled=False,
        web_router_enabled=False,
        web_tables_enabled=False,
        web_graph_enabled=False,
        web_metrics_enabled=False,
    )
    app.connection, app.partition_bytes = connection, settings.partition_bytes
    app.lanes = Lanes(
        connection,
        name,
        agents,
        secrets.token_hex(4),
        dead_letters,
        answerer=answerer,
        seen=seen,
        settings=settings.lanes,
    )
    for agent in agents:
        _add_agent(app, agent)
    _add_pages(app, name)
    return app


def _add_agent(app: App, agent: Agent) -> None:
    async def run(stream: AsyncIterable[Fetched]) -> None:
        async for fetched in stream:
            app.lanes.take(fetched)

    # Faust's acknowledgements are off: it would remember every batch, and only its own commits forget them.
    app.agent(app.topic(*agent.topics, schema=LaneSchema(), acks=False), name=agent.name)(run)


def _add_pages(app: App, name: str) -> None:
    # Faust adds an index of its own later: the first page of a path is the one that answers.
    @app.page("/", name="root")
    async def root(view: View, request: Request) -> Response:
        return view.text(f"streamproc worker of {name}\n\n{PAGES}", content_type="text/plain")

    @app.page("/healthz", name="healthz")
    async def healthz(view: View, request: Request) -> Response:
        health = app.lanes.health()
        body = orjson.dumps(health)
        return view.bytes(body, content_type="application/json", status=200 if health["ok"] else 503)

    @app.page("/metrics", name="metrics")
    async def serve_metrics(view: View, request: Request) -> Response:
        app.lanes.set_gauges()
        return view.bytes(generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _start(app: App) -> None:
    await app.lanes.start()
    await app.start()


async def run_worker(app: App) -> None:
    """Run until SIGTERM or SIGINT, then finish the batches in flight and leave the group."""
    require(await probe(app.connection, PROBE_SECONDS))
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # a full collection would look at 100,000 objects of imported modules: a pause of 50 ms
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.ensure_future(stop.wait())
    starting = asyncio.ensure_future(_start(app))
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()  # a broker that is away keeps it waiting
        await asyncio.wait({starting}, timeout=STOP_SECONDS)
    else:
        starting.result()
        crashed = asyncio.ensure_future(app.wait_until_stopped())
        await asyncio.wait({stopped, crashed}, return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping: finishing the batches in flight")
    await app.lanes.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await app.stop()
    await app.lanes.leave_state()
    if app.crash_reason is not None:
        raise app.crash_reason
