"""What a worker sees while it runs: how monitors stand, and what people said on the control topic."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, get_args

from aiokafka.errors import KafkaError

from streamproc import metrics
from streamproc.baselines import kept_or_learned, stream_reference
from streamproc.control import control_of, say
from streamproc.core.control import Control
from streamproc.core.decide.drift import WATCH, Watch
from streamproc.core.decide.frame import MODE
from streamproc.core.drift.baseline import BASELINES, Baseline
from streamproc.core.drift.detector import LEVELS
from streamproc.core.drift.view import VIEW, DriftView
from streamproc.core.plan import Mode
from streamproc.core.processor import Answer, Ask, Lookup
from streamproc.errors import BrokerUnavailable, UserError
from streamproc.incidents import STANDINGS, Incident, open_incidents, read_states
from streamproc.kafka.agent import Answerer, SeenNow
from streamproc.kafka.connection import Connection
from streamproc.kafka.follower import Follower, Values, following
from streamproc.kafka.watchdog import guard
from streamproc.pipeline import Pipeline
from streamproc.plan.models import StreamReference
from streamproc.stream_reference import kept_events, learned, new_normal

log = logging.getLogger(__name__)

LEARN_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What a worker is told: ``seen`` for its decisions, and ``answer`` for what processors ask beside scores.

    ``own`` is the baseline of the pipeline's file, where it was needed.
    """

    seen: SeenNow
    answer: Answerer
    own: Baseline | None


@asynccontextmanager
async def seeing(pipeline: Pipeline, connection: Connection) -> AsyncIterator[Sight]:
    """Follow what decisions see, and have a baseline: said by people, beside the file, or learned.

    Where a topic is the reference, it is learned while the worker decides, once the topic has enough events.
    """
    seeing, topics, watches = Seeing(pipeline), pipeline.plan.topics, pipeline.plan.drift is not None
    followed = (topics.control, topics.drift_state) if watches else (topics.control,)
    async with following(connection, followed, seeing.views) as follower:
        stream = stream_reference(pipeline) if watches else None
        if watches and seeing.said is None:
            seeing.own = await asyncio.to_thread(kept_or_learned, pipeline)
            await follower.show()
        lookups, learning = Lookups(seeing, follower, pipeline.answers), asyncio.Future[None]()
        if seeing.watch is None and stream is not None:
            task = _learn_when_there_is_enough(seeing, follower, pipeline, connection, stream)
            learning = asyncio.create_task(guard(task), name="learning")
        try:
            yield Sight(follower.seen, lookups, seeing.own)
        finally:
            learning.cancel()
            await asyncio.wait({learning})


async def _learn_when_there_is_enough(
    seeing: Seeing, follower: Follower, pipeline: Pipeline, connection: Connection, stream: StreamReference
) -> None:
    """Learn from a topic, which may have too few events yet."""
    while seeing.watch is None:
        try:
            await _learn_stream(seeing, follower, pipeline, connection, stream)
        except (BrokerUnavailable, KafkaError) as error:
            log.warning("learning from %s: %s, trying again", stream.topic, error)
        except UserError as error:
            log.error("nothing is watched: %s (%s)", error.message, error.hint)
            return
        await asyncio.sleep(LEARN_AGAIN_SECONDS)


async def _learn_stream(
    seeing: Seeing, follower: Follower, pipeline: Pipeline, connection: Connection, stream: StreamReference
) -> None:
    """Learn from a topic that has enough events, and say so to all workers, unless another one was quicker."""
    there = await kept_events(connection, stream.topic)
    if there < stream.events:
        log.info("%s has %s of the %s events to learn from", stream.topic, f"{there:,}", f"{stream.events:,}")
        return
    stretch, baseline = await learned(connection, pipeline, stream.topic, stream.events)
    await follower.shows_all()
    if seeing.said is None:
        why = f"learned from the newest {len(stretch.records):,} events of {stream.topic}"
        await say(connection, new_normal(pipeline, baseline, "streamproc", why, stretch))
        await follower.shows_all()


class Lookups:
    """Answers look-ups of baselines from what was said on the control topic; what else is asked, the models."""

    def __init__(self, seeing: Seeing, follower: Follower, models: Answerer) -> None:
        self._seeing, self._follower, self._models = seeing, follower, models

    async def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer per ask, never an exception. A look-up waits for as long as the broker is away."""
        mine = [isinstance(ask, Lookup) and ask.source == BASELINES for ask in asks]
        others = [ask for ask, own in zip(asks, mine, strict=True) if not own]
        answers = iter(await self._models(others) if others else ())
        return [
            await self._baselines(ask) if isinstance(ask, Lookup) and own else next(answers)
            for ask, own in zip(asks, mine, strict=True)
        ]

    async def _baselines(self, ask: Lookup) -> Answer:
        """Whoever sent panes of a baseline had seen it: it stands on the topic by now, or others stand there."""
        await self._follower.shows_all()
        said = self._seeing.said
        found = [said.dumps() if said is not None and said.hash.encode() == key else None for key in ask.keys]
        reasons = ["unknown" if value is None else None for value in found]
        return Answer(found, reasons, str(self._seeing.turn))


class Seeing:
    """What decisions see of the pipeline's own topics, and the baseline that holds.

    ``own`` is the baseline of the pipeline's file; what was said on the control topic about this plan goes before it.
    ``watch`` is by the one that holds; ``turn`` counts those that were said.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._topics = pipeline, pipeline.plan.topics
        self.own: Baseline | None = None
        self._said: tuple[bytes | None, Baseline | None] = (None, None)
        self._told_mode: Mode = "automatic"
        self.turn = 0
        self.watch: Watch | None = None
        self._incidents: list[Incident] = []
        for standing in STANDINGS:
            metrics.INCIDENTS.labels(standing).set_function(partial(self._count, standing))

    def views(self, values: Values) -> Mapping[str, Any]:
        """The views of the newest values of the topics."""
        control = control_of(values[self._topics.control])
        views: dict[str, Any] = {MODE: self._mode(control)}
        baseline = self._said_baseline(control) or self.own
        if baseline is None or self._topics.drift_state not in values:
            return views
        if self.watch is None or self.watch.baseline != baseline.hash:
            log.info("watching by baseline %s", baseline.hash)
            self.watch = Watch.of(self._pipeline.plan, baseline)
        states = read_states(values[self._topics.drift_state].values(), baseline.hash)
        metrics.DRIFT_LEVEL.clear()
        for state in states:
            if level := LEVELS.index(state["state"]):
                metrics.DRIFT_LEVEL.labels(state["monitor"]).set(level)
        self._incidents = open_incidents(states, control)
        return views | {VIEW: DriftView.of(states, baseline.hash), WATCH: self.watch}

    def _mode(self, control: Control) -> Mode:
        """What automation may do; told in the log where that changes."""
        said = control.mode
        mode: Mode = "automatic" if said is None else said.mode
        if mode != self._told_mode:
            log.warning("mode %s%s", mode, "" if said is None else f", says {said.by}: {said.why}")
            self._told_mode = mode
        for name in get_args(Mode):
            metrics.MODE.labels(name).set(name == mode)
        return mode

    @property
    def said(self) -> Baseline | None:
        """The baseline that stands on the control topic for this plan and model."""
        return self._said[1]

    def _said_baseline(self, control: Control) -> Baseline | None:
        plan = self._pipeline.plan
        raw = bytes(control.normal.baseline) if control.normal is not None else None
        if raw != self._said[0]:
            try:
                found = control.baseline(plan.hash, None if plan.model is None else plan.model.version)
            except ValueError as error:
                log.warning("the baseline on the control topic is left out: %s", error)
                found = None
            self._said, self.turn = (raw, found), self.turn + 1
        return self._said[1]

    def _count(self, wanted: str) -> int:
        now = datetime.now(UTC)
        return sum(incident.standing(now) == wanted for incident in self._incidents)
