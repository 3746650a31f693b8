"""Run processors of your own on lanes: state, ticks and exactly-once, without a pipeline file."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from streamproc import logs
from streamproc.app import PROBE_SECONDS, WorkerSettings, build_app, run_worker
from streamproc.core.records import Topics
from streamproc.errors import StreamprocError, UserError
from streamproc.kafka import admin
from streamproc.kafka.admin import TopicSpec
from streamproc.kafka.agent import Agent, Answerer, by_topic
from streamproc.kafka.connection import Connection, probe, require
from streamproc.kafka.runner import no_answers

log = logging.getLogger(__name__)


def run_agents(
    name: str,
    agents: Sequence[Agent],
    *,
    connection: Connection | None = None,
    settings: WorkerSettings | None = None,
    answerer: Answerer = no_answers,
) -> None:
    """Run agents in this process until SIGTERM or SIGINT; start it again for more workers.

    ``name`` is the consumer group and the prefix of the agents' own topics. Kafka is where ``STREAMPROC_KAFKA`` says,
    unless a connection is given. Missing output topics and changelogs are made, with as many partitions as the input.
    ``answerer`` answers the processors' asks. What a user can mend ends the process with a line and a hint, and the
    exit code of ``streamproc run``.
    """
    try:
        if connection is None:
            logs.configure("human", "info")
            connection = Connection.load(None, None, os.environ)
        asyncio.run(_run(name, agents, connection, settings or WorkerSettings(), answerer))
    except StreamprocError as error:
        log.critical("%s%s", error.message, f" ({error.hint})" if error.hint else "")
        sys.exit(error.exit_code)


async def _run(
    name: str, agents: Sequence[Agent], connection: Connection, settings: WorkerSettings, answerer: Answerer
) -> None:
    require(await probe(connection, PROBE_SECONDS))
    dead_letters = Topics.of(name).dead_letters
    await prepare_topics(name, agents, connection, dead_letters)
    app = build_app(name, agents, connection, dead_letters, settings, answerer=answerer)
    await run_worker(app)


async def prepare_topics(name: str, agents: Sequence[Agent], connection: Connection, dead_letters: str) -> None:
    """Check that each agent's topics have equal partition counts, and make what is written to and is not there."""
    produced = {topic for agent in agents for topic in agent.writes}
    read = [topic for topic in by_topic(agents) if topic not in produced]
    infos = await admin.describe(connection, read)
    missing = [topic for topic in read if topic not in infos]
    if missing:
        raise UserError(f"topics do not exist: {', '.join(missing)}", "their producers make them")
    wanted: dict[str, TopicSpec] = {}
    for agent in agents:
        counts = {topic: infos[topic].partitions for topic in agent.topics if topic in infos}
        if len(set(counts.values())) > 1:
            raise UserError(
                f"agent {agent.name!r} reads topics of different partition counts: {counts}",
                "partition p of all of them is one lane: make the counts equal",
            )
        count = next(iter(counts.values()), 1)
        if not counts:  # it reads only what other agents of this application write
            count = max(spec.partitions for spec in wanted.values()) if wanted else 1
        for topic in (*agent.writes, dead_letters):
            wanted.setdefault(topic, TopicSpec(topic, count))
        changelog = agent.changelog(name)
        wanted[changelog] = TopicSpec(changelog, count, cleanup_policy="compact", internal=True)
    there = await admin.describe(connection, list(wanted))
    await admin.create(connection, [spec for topic, spec in wanted.items() if topic not in there])
    wrong = [
        str(problem)
        for topic, info in there.items()
        if wanted[topic].internal
        for problem in admin.mismatches(wanted[topic], info)
    ]
    if wrong:
        raise UserError("; ".join(wrong), "a changelog belongs to its lanes: give the application another name")
