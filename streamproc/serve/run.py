"""A door as a process: topics, connections, sockets, and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

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
from streamproc.serve.listening import listening
from streamproc.serve.settings import ServeSettings
from streamproc.serve.unchanged import changed
from streamproc.serve.writing import writing
from streamproc.topics import check_topics, door_topics, events_topic, pipeline_topics, unseen_topic

log = logging.getLogger(__name__)
PROBE_SECONDS: Final = 30.0
HEAD_BYTES: Final = 1_000
"""What a record takes at most beside its value and its key: headers, and the head of its batch."""
COLLECT_AFTER: Final = (5_000, 20, 50)


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
    own = [*pipeline_topics(loaded, (), events.partitions), unseen_topic(loaded, events.partitions)]
    infos = await check_topics(connection, door_topics(own), create=create)
    topics = plan.topics
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(writing(connection, [events]))
        sayer = await stack.enter_async_context(writing(connection, [infos[name] for name in _said(loaded)]))
        answers = Answers(part.recent)
        followed = (topics.decisions, topics.dead_letters)
        follower = await stack.enter_async_context(following(connection, followed, answers, part.look_back))
        read = [plan.events.input, *([plan.events.topic] if plan.events.source is not None else [])]
        lag = await stack.enter_async_context(watching(connection, plan.pipeline, read))
        door = Door(
            plan=plan,
            part=part,
            checker=checker,
            writer=writer,
            sayer=sayer,
            answers=answers,
            history=History(connection, topics.decisions),
            following=follower,
            lag=lag,
            rates=Rates(part.rate),
            count=events.partitions,
            largest=events.most_bytes - HEAD_BYTES,
        )
        async with listening(application(door, keys, signatures), settings, tls):
            _collect_less()
            log.info("door of %s at %s:%d", plan.pipeline, settings.host, settings.port)
            known = {name: info for name, info in (infos | {events.name: events}).items() if name in (*read, *followed)}
            try:
                await _end(changed(connection, known, read))
            finally:
                door.end()


def _collect_less() -> None:
    """What is imported is there for good, and what a door remembers is in no cycles: to look through all of it again
    and again takes as long as an event does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def _end(changing: Coroutine[Any, Any, None]) -> None:
    """Wait for a signal, or for what ends a door and raises."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    waiting = {asyncio.create_task(stop.wait()), asyncio.create_task(changing, name="topics")}
    done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.wait(waiting)
    log.info("stopping: answering what was asked")
    for task in done:
        task.result()


def _said(loaded: Loaded) -> set[str]:
    """What a door writes to beside events."""
    plan, topics = loaded.plan, loaded.plan.topics
    verdicts = {topics.verdicts} if plan.review is not None else set[str]()
    outcomes = {topics.outcomes} if plan.outcomes is not None else set[str]()
    return {topics.unseen, *verdicts, *outcomes}


def run(loaded: Loaded, connection: Connection, settings: ServeSettings, keys: Keys, *, create: bool) -> None:
    """``serve`` on an event loop of its own."""
    asyncio.run(serve(loaded, connection, settings, keys, create=create, environ=os.environ))
