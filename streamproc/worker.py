"""A pipeline as a worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson

from streamproc import metrics
from streamproc.app import PROBE_SECONDS, App, WorkerSettings, build_app, run_worker
from streamproc.artefacts import artefacts, to_directory, to_topic
from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.drift.baseline import NO_BASELINE, Baseline
from streamproc.core.drift.processor import TABLE, DriftProcessor
from streamproc.core.intake import IntakeProcessor
from streamproc.core.outcomes.book import TABLE as OUTCOMES_TABLE
from streamproc.core.outcomes.policy import OutcomesPlan
from streamproc.core.outcomes.processor import OutcomeProcessor
from streamproc.core.plan import Plan
from streamproc.core.processor import Answer, Ask, Score
from streamproc.core.repartition import RepartitionProcessor
from streamproc.core.review.desk import AGENDA, LOAD
from streamproc.core.review.desk import TABLES as REVIEW_TABLES
from streamproc.core.review.load import Load
from streamproc.core.review.policy import ReviewPlan
from streamproc.core.review.processor import ReviewProcessor
from streamproc.errors import UserError
from streamproc.io.breaker import STATES
from streamproc.kafka import admin
from streamproc.kafka.agent import Agent
from streamproc.kafka.connection import Connection, probe, require
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import Pipeline, signatures_of
from streamproc.seeing import seeing
from streamproc.tables import holding
from streamproc.topics import check_topics, events_topic, pipeline_topics

log = logging.getLogger(__name__)

REVIEW = "review"
"""The agent of cases."""
PATIENCE = 0.1
"""Seconds by which works may be put off of agents for whose results nobody waits at a checkout."""


def agents(pipeline: Pipeline, lanes: int, baseline: Baseline | None = None) -> list[Agent]:
    """The agents of a pipeline on so many lanes.

    A pipeline that watches anything needs its baseline only to run them.
    """
    plan = pipeline.plan
    deciding = DecideProcessor.of(pipeline.processor.plan, pipeline.processor.masker, lanes=lanes)
    made = [
        Agent(
            name="decide",
            topics=(plan.events.topic,),
            processor=replace(deciding, stages=tuple(map(timed, deciding.stages)), watch=pipeline.processor.watch),
            tables=TABLES,
            writes=_written_by_deciding(plan),
            start=plan.events.start if plan.events.source is None else "earliest",
        )
    ]
    if plan.events.source is not None:
        made.append(_repartition_agent(plan, plan.events.source))
    if plan.drift is not None:
        drift = plan.drift
        processor = DriftProcessor(plan.pipeline, baseline or NO_BASELINE, recover=drift.recover, volume=drift.volume)
        topics = plan.topics
        made.append(
            Agent("drift", (topics.panes,), processor, (TABLE,), (topics.drift, topics.drift_state), patience=PATIENCE)
        )
    if plan.review is not None or plan.outcomes is not None:
        made.append(_intake_agent(plan, lanes))
    if plan.review is not None:
        made.append(_review_agent(plan, plan.review, lanes))
    if plan.outcomes is not None:
        made.append(_outcome_agent(plan, plan.outcomes))
    return made


def _repartition_agent(plan: Plan, source: str) -> Agent:
    assert plan.events.repartition_by is not None
    routing = RepartitionProcessor(plan.events.repartition_by, plan.events.topic)
    return Agent("repartition", (source,), routing, (), (plan.events.topic,), plan.events.start)


def _intake_agent(plan: Plan, lanes: int) -> Agent:
    topics = plan.topics
    read, written = list[str](), [topics.dead_letters]
    if plan.review is not None:
        read += [topics.verdicts, topics.action_results]
        written.append(topics.cases)
    if plan.outcomes is not None:
        read.append(topics.outcomes)
        written.append(topics.outcomes_by_lane)
    processor = IntakeProcessor(plan.pipeline, lanes, signatures_of(plan))
    return Agent("intake", tuple(read), processor, (), tuple(written), patience=PATIENCE)


def _outcome_agent(plan: Plan, outcomes: OutcomesPlan) -> Agent:
    topics = plan.topics
    reviewed = () if plan.review is None else (topics.review_events,)
    read = (topics.decisions, *reviewed, topics.outcomes_by_lane)
    processor = OutcomeProcessor(plan.pipeline, outcomes)
    return Agent("outcome", read, processor, (OUTCOMES_TABLE,), (topics.metrics,), patience=PATIENCE)


def _review_agent(plan: Plan, review: ReviewPlan, lanes: int) -> Agent:
    topics = plan.topics
    reviewing = ReviewProcessor(plan.pipeline, review, plan.actions, lanes)
    actions = {topic for topic in plan.actions.values() if topic is not None}
    written = (topics.review, topics.review_events, topics.decisions, topics.dead_letters, *sorted(actions))
    return Agent(REVIEW, (topics.cases,), reviewing, REVIEW_TABLES, written, patience=PATIENCE)


def _written_by_deciding(plan: Plan) -> tuple[str, ...]:
    watched = () if plan.drift is None else (plan.topics.panes,)
    return (*plan.written, *watched, *((plan.topics.drift,) if plan.capped else ()))


async def work(
    pipeline: Pipeline,
    connection: Connection,
    settings: WorkerSettings,
    *,
    create: bool,
    archive: Path | None,
    restarts: int = 0,
) -> None:
    """Run one worker of a pipeline until it is told to stop."""
    require(await probe(connection, PROBE_SECONDS))
    plan = pipeline.plan
    events = await events_topic(connection, plan.events.input)
    await check_topics(
        connection,
        pipeline_topics(pipeline.loaded, agents(pipeline, events.partitions), events.partitions),
        create=create,
    )
    if (retention := int(events.configs.get("retention.ms", -1))) >= 0:
        metrics.RETENTION.labels(plan.events.input).set(retention / 1000)
    kept = artefacts(pipeline)
    if archive is not None:
        to_directory(kept, archive)
    else:
        await to_topic(kept, connection, plan.topics.artefacts)
    if plan.review is None:
        await _tell_of_cases(plan, connection)
    metrics.RESTARTS.set(restarts)
    for name in pipeline.answers.states():
        metrics.BREAKER.labels(name).set_function(partial(_breaker, pipeline, name))
    warm_up(pipeline)
    log.info("worker of %s, plan %s, %d partitions", plan.pipeline, plan.hash, events.partitions)
    async with holding(pipeline, connection), seeing(pipeline, connection) as sight:
        own = agents(pipeline, events.partitions, sight.own)
        app = build_app(
            plan.pipeline,
            own,
            connection,
            plan.topics.dead_letters,
            settings,
            answerer=sight.answer,
            seen=sight.seen,
        )
        if plan.review is not None:
            metrics.REVIEW_WAITING.set_function(partial(_waiting, app))
        for agent in own:
            if isinstance(agent.processor, DriftProcessor):
                metrics.DRIFT_STATISTIC.source = partial(_statistics, app, agent.processor, agent.name)
        try:
            await run_worker(app)
        finally:
            await pipeline.answers.disconnect()
            await asyncio.to_thread(pipeline.answers.close)


def _waiting(app: App) -> int:
    """Cases that wait for people."""
    return sum(Load.read(raw).waiting for raw in app.lanes.kept(REVIEW, AGENDA, LOAD))


async def _tell_of_cases(plan: Plan, connection: Connection) -> None:
    """Say that cases may be open that nobody keeps any more."""
    try:
        there = await admin.describe(connection, [plan.topics.cases])
    except UserError:  # not allowed to look: such a worker was never one of a pipeline with cases
        return
    if there:
        log.warning("the file has no review part any more: cases that are open stay so, and nobody's answer counts")


def _breaker(pipeline: Pipeline, model: str) -> int:
    return STATES.index(pipeline.answers.states()[model])


def _statistics(app: App, processor: DriftProcessor, agent: str) -> dict[str, float]:
    return processor.statistics(app.lanes.of(agent))


def timed(stage: Stage) -> Stage:
    """The same stage, with the time that it takes as a metric: a stage itself reads no clock."""

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        steps, spent, answers = stage.run(frame, context), 0.0, None
        while True:
            started = time.perf_counter()
            try:
                asks = next(steps) if answers is None else steps.send(answers)
            except StopIteration:
                break
            finally:
                spent += time.perf_counter() - started
            answers = yield asks
        metrics.STAGE.labels(stage.name).observe(spent)

    return replace(stage, run=run)


def warm_up(pipeline: Pipeline) -> None:
    """Decide the events of the file's tests for nothing: what is slow the first time should not be so for an event.

    Language models are not asked: that is not for nothing.
    """
    pipeline.answers.warm_up()
    values = [orjson.dumps(test.event, default=str) for test in pipeline.loaded.file.tests]
    in_words = pipeline.plan.language_models

    def answer(ask: Ask) -> Answer:
        if isinstance(ask, Score) and ask.model in in_words:
            return Answer.nothing(len(ask.ids), "not_asked")
        return pipeline.answers.now(ask)

    if values:
        Offline(pipeline.processor, answer, tables=TABLES).process(batch_of(pipeline.plan.events.topic, values))


def stop_with_parent() -> None:
    """End this process when the supervisor's end of our standard input closes, however it ended."""

    def watch() -> None:
        # Not through sys.stdin: a thread inside its lock aborts the interpreter at the end.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def run_in_process(
    pipeline: Pipeline,
    connection: Connection,
    settings: WorkerSettings,
    *,
    create: bool,
    archive: Path | None,
    restarts: int = 0,
) -> None:
    """``work`` on an event loop of its own."""
    asyncio.run(work(pipeline, connection, settings, create=create, archive=archive, restarts=restarts))
