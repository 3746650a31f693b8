"""A door as a process: topics, connections, sockets, and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from streamproc.errors import EnvironmentFault, UserError
from streamproc.kafka.connection import Connection, probe, require
from streamproc.pipeline import make_masker, signatures_of
from streamproc.plan.load import Loaded
from streamproc.serve.answers import Answers
from streamproc.serve.app import application
from streamproc.serve.callers import Keys, Rates
from streamproc.serve.door import Door
from streamproc.serve.events import Checker
from streamproc.serve.following import following
from streamproc.serve.history import History
from streamproc.serve.lag import watching
from streamproc.serve.writing import writing
from streamproc.topics import TopicRole, check_topics, events_topic, pipeline_topics, unseen_topic

log = logging.getLogger(__name__)
SILENT: Final = logging.Logger("aiohttp", logging.CRITICAL + 1)
"""aiohttp quotes what it cannot parse, which may be a key or an event. What handlers raise is logged by ours."""

PROBE_SECONDS: Final = 30.0
KEEP_ALIVE_SECONDS: Final = 75.0
"""Longer than balancers keep a connection that is idle."""
STOP_SECONDS: Final = 5.0
HEAD_BYTES: Final = 1_000
"""What a record takes at most beside its value and its key: headers, and the head of its batch."""
DEFAULT_LARGEST: Final = 1_048_588
COLLECT_AFTER: Final = (5_000, 20, 50)
LOCAL: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where a door listens, and how. With ``client_ca`` callers need a certificate of that authority."""

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    keyless: bool = False
    connections: int = 4_000

    def check(self, keys: Keys) -> None:
        """Raises UserError where everybody in the network could send events."""
        if self.host not in LOCAL and not (keys.known or self.client_ca or self.keyless):
            raise UserError(
                f"whoever reaches {self.host} could send events: there are no API keys",
                "name a file with --keys, or certificates with --client-ca, or say --no-keys",
            )

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context, where there is a certificate. Raises UserError where files cannot be used."""
        if self.certificate is None:
            if self.client_ca is not None or self.key is not None:
                raise UserError("TLS needs a certificate", "name one with --tls-certificate")
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"the certificates cannot be used: {error}", "PEM is expected") from error
        return context


async def serve(
    loaded: Loaded,
    connection: Connection,
    settings: ServeSettings,
    keys: Keys,
    *,
    create: bool,
    environ: Mapping[str, str],
) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was asked."""
    settings.check(keys)
    tls, plan, part = settings.tls(), loaded.plan, loaded.file.serve
    sensitive = plan.events.id in plan.events.sensitive
    checker = Checker(plan, make_masker(plan, environ) if sensitive else None)
    signatures = signatures_of(plan)
    require(await probe(connection, PROBE_SECONDS))
    events = await events_topic(connection, plan.events.input)
    await check_topics(connection, topics_of(loaded, events.partitions), create=create)
    topics = plan.topics
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(writing(connection, _written(loaded)))
        answers = Answers(part.recent)
        await stack.enter_async_context(
            following(connection, (topics.decisions, topics.dead_letters), answers, part.look_back)
        )
        read = [plan.events.input, *([plan.events.topic] if plan.events.source is not None else [])]
        lag = await stack.enter_async_context(watching(connection, plan.pipeline, read))
        door = Door(
            plan=plan,
            part=part,
            checker=checker,
            writer=writer,
            answers=answers,
            history=History(connection, topics.decisions),
            lag=lag,
            rates=Rates(part.rate),
            count=events.partitions,
            largest=int(events.configs.get("max.message.bytes", DEFAULT_LARGEST)) - HEAD_BYTES,
        )
        await _listen(stack, application(door, keys, signatures), settings, tls)
        _collect_less()
        log.info("door of %s at %s:%d", plan.pipeline, settings.host, settings.port)
        await _told_to_stop()


def _collect_less() -> None:
    """What is imported is there for good, and what a door remembers is in no cycles: to look through all of it again
    and again takes as long as an event does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def _listen(
    stack: AsyncExitStack, app: web.Application, settings: ServeSettings, tls: ssl.SSLContext | None
) -> None:
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=SILENT,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        lingering_time=1.0,
        auto_decompress=False,
        shutdown_timeout=STOP_SECONDS,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    server = runner.server
    assert server is not None

    def connected() -> asyncio.BaseProtocol:
        # A connection that is one too many is closed at once: each takes memory, be it silent or not.
        return server() if len(server.connections) < settings.connections else _Closing()

    try:
        sockets = await asyncio.get_running_loop().create_server(
            connected, settings.host, settings.port, ssl=tls, reuse_address=True
        )
    except OSError as error:
        raise EnvironmentFault(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    stack.callback(sockets.close)


class _Closing(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.abort()


async def _told_to_stop() -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    log.info("stopping: answering what was asked")


def topics_of(loaded: Loaded, partitions: int) -> list[TopicRole]:
    """The pipeline's own topics that a door writes or reads."""
    roles = {"decisions", "dead-letter", "verdicts", "outcomes", "repartitioned"}
    own = [row for row in pipeline_topics(loaded, (), partitions) if row.role in roles]
    return [*own, unseen_topic(loaded, partitions)]


def _written(loaded: Loaded) -> set[str]:
    """What a door writes to."""
    plan, topics = loaded.plan, loaded.plan.topics
    said = {topics.verdicts} if plan.review is not None else set[str]()
    true = {topics.outcomes} if plan.outcomes is not None else set[str]()
    return {plan.events.input, topics.unseen, *said, *true}


def run(loaded: Loaded, connection: Connection, settings: ServeSettings, keys: Keys, *, create: bool) -> None:
    """``serve`` on an event loop of its own."""
    asyncio.run(serve(loaded, connection, settings, keys, create=create, environ=os.environ))
