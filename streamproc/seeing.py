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

import msgspec
from aiokafka.errors import KafkaError

from streamproc import metrics
from streamproc.baselines import kept_or_learned, stream_reference
from streamproc.control import control_of, recall, said_so_far, say, soundness
from streamproc.core.control import Control, NewMode, NewNormal, Said
from streamproc.core.decide.drift import WATCH, Watch
from streamproc.core.decide.frame import MODE
from streamproc.core.drift.baseline import BASELINES, Baseline
from streamproc.core.drift.detector import LEVELS
from streamproc.core.drift.view import VIEW, DriftView
from streamproc.core.llm.prompts import PROMPTS, Prompts
from streamproc.core.plan import Mode
from streamproc.core.processor import Answer, Ask, Lookup
from streamproc.errors import BrokerUnavailable, UserError
from streamproc.incidents import STANDINGS, Incident, open_incidents, read_states
from streamproc.kafka.agent import Answerer, SeenNow
from streamproc.kafka.connection import Connection
from streamproc.kafka.follower import Follower, Values, following
from streamproc.kafka.watchdog import guard
from streamproc.labels import Labels
from streamproc.pipeline import Pipeline, signatures_of
from streamproc.plan.models import StreamReference
from streamproc.stream_reference import kept_offsets, learn_from, new_normal, newest

log = logging.getLogger(__name__)

LEARN_AGAIN_SECONDS = 5.0
LONGEST_WAIT = 60.0
RETRY_SECONDS = 1.0
LEARNER = "streamproc"
"""Who says what is normal where that is learned from a stream."""


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
        if seeing.labels.lost:
            await seeing.recall(connection)
            await follower.show()
        if watches and seeing.said is None:
            seeing.own = await asyncio.to_thread(kept_or_learned, pipeline)
            await follower.show()
        lookups, learning = Lookups(seeing, follower, pipeline, connection), asyncio.Future[None]()
        if stream is not None:
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
    """Learn from a topic whenever there is no baseline. It may have too few events yet, or be away."""
    told, wait = "", LEARN_AGAIN_SECONDS
    while True:
        if seeing.watch is None:
            try:
                await _learn_stream(seeing, follower, pipeline, connection, stream)
                told, wait = "", LEARN_AGAIN_SECONDS
            except (BrokerUnavailable, KafkaError, UserError) as error:
                if str(error) != told:  # once, not every time
                    hint = f" ({error.hint})" if isinstance(error, UserError) and error.hint else ""
                    log.warning("nothing is watched yet: %s%s", error, hint)
                told, wait = str(error), min(2 * wait, LONGEST_WAIT)
        await asyncio.sleep(wait)


async def _learn_stream(
    seeing: Seeing, follower: Follower, pipeline: Pipeline, connection: Connection, stream: StreamReference
) -> None:
    """Learn from a topic that has enough events, and say so to all workers, unless another one was quicker."""
    if await kept_offsets(connection, stream.topic) < stream.events:
        return
    stretch = await newest(connection, stream.topic, stream.events)
    if len(stretch.records) < stream.events:
        return
    baseline = await learn_from(connection, pipeline, stretch)
    await follower.shows_all()
    if seeing.said is None:
        why = f"learned from the newest {len(stretch.records):,} events of {stream.topic}"
        await say(connection, new_normal(pipeline, baseline, LEARNER, why, stretch))
        await follower.shows_all()


class Lookups:
    """Answers look-ups of baselines from all that were ever said; what else is asked, the models."""

    def __init__(self, seeing: Seeing, follower: Follower, pipeline: Pipeline, connection: Connection) -> None:
        self._seeing, self._follower = seeing, follower
        self._pipeline, self._connection = pipeline, connection

    async def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer per ask, never an exception. A look-up waits for as long as the broker is away."""
        mine = [isinstance(ask, Lookup) and ask.source == BASELINES for ask in asks]
        others = [ask for ask, own in zip(asks, mine, strict=True) if not own]
        answers = iter(await self._pipeline.answers(others) if others else ())
        return [
            await self._baselines(ask) if isinstance(ask, Lookup) and own else next(answers)
            for ask, own in zip(asks, mine, strict=True)
        ]

    async def _baselines(self, ask: Lookup) -> Answer:
        """Of each its place in the order in which they were said, and its JSON.

        Whoever sent panes of a baseline had seen it, so it has been said by now. The audit topic may show that a moment
        later than the control topic.
        """
        await self._follower.shows_all()
        while True:
            try:
                known = await said_so_far(self._connection, self._pipeline.plan)
                break
            except (BrokerUnavailable, KafkaError) as error:
                log.warning("looking up baselines: %s, trying again", error)
                await asyncio.sleep(RETRY_SECONDS)
        said = self._seeing.said
        if said is not None and said.hash not in known:
            known[said.hash] = max((place for place, _ in known.values()), default=-1) + 1, said.dumps()
        found = [known.get(key.decode()) for key in ask.keys]
        return Answer(found, ["unknown" if one is None else None for one in found])


class Seeing:
    """What decisions see of the pipeline's own topics, and the baseline that holds.

    ``own`` is the baseline of the pipeline's file; what was said on the control topic about this plan goes before it.
    ``watch`` is by the one that holds.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._topics = pipeline, pipeline.plan.topics
        self.own: Baseline | None = None
        self._said: tuple[bytes | None, Baseline | None] = (None, None)
        self._told_mode: Mode = "automatic"
        self._values: dict[bytes, bytes] = {}
        self._control = Control()
        self._signatures = signatures_of(pipeline.plan)
        self._counted: NewMode | None = None
        self.labels = Labels(pipeline.plan, self._signatures.required, self._is_sound)
        self._prompts: Mapping[str, Prompts] = {}
        self.watch: Watch | None = None
        self._incidents: list[Incident] = []
        for standing in STANDINGS:
            metrics.INCIDENTS.labels(standing).set_function(partial(self._count, standing))

    def views(self, values: Values) -> Mapping[str, Any]:
        """The views of the newest values of the topics."""
        control = self._control_of(values[self._topics.control])
        views: dict[str, Any] = {MODE: self._mode(control), PROMPTS: self._prompts}
        baseline = self._said_baseline(control) or self.own
        if baseline is None or self._topics.drift_state not in values:
            self.watch, self._incidents = None, []
            return views
        if self.watch is None or self.watch.baseline != baseline.hash:
            log.info("watching by baseline %s", baseline.hash)
            for name, reason in baseline.unwatched.items():
                log.info("%s is not watched: %s", name, reason)
            self.watch = Watch.of(self._pipeline.plan, baseline)
        states = read_states(values[self._topics.drift_state].values(), baseline.hash)
        metrics.DRIFT_LEVEL.clear()
        for state in states:
            if level := LEVELS.index(state["state"]):
                metrics.DRIFT_LEVEL.labels(state["monitor"]).set(level)
        self._incidents = open_incidents(states, control)
        return views | {VIEW: DriftView.of(states, baseline.hash), WATCH: self.watch}

    async def recall(self, connection: Connection) -> None:
        """Let what was said before of prompts hold, where the newest record does not count."""
        try:
            await recall(connection, self._pipeline.plan, self.labels)
        except UserError as error:  # it may not be allowed to read that
            log.warning("prompts are those of the files: what was said before cannot be looked up: %s", error)
        self._use(self.labels.prompts)

    def _control_of(self, values: Mapping[bytes, bytes]) -> Control:
        """What was said, read again only where that changed: drift changes more often."""
        if values != self._values:
            said = control_of(values, self._pipeline.plan.pipeline)
            self._values, self._control = dict(values), self._that_counts(said)
            self._use(self.labels.hear(said.labels, values))
        return self._control

    def _use(self, prompts: Mapping[str, Prompts]) -> None:
        """Use these versions from now on, and let go of what was kept of those that are used no more."""
        llms = self._pipeline.plan.language_models.values()
        before, after = (
            {one.hash for llm in llms for one in said.get(llm.prompt.name, llm.prompts).versions}
            for said in (self._prompts, prompts)
        )
        self._prompts = prompts
        for hash_ in before - after:
            self._pipeline.answers.forget(hash_)

    def _that_counts(self, control: Control) -> Control:
        """What counts of what was said, where signatures are wanted."""
        mode, before, wanted = control.mode, self._counted, self._signatures.required
        if mode is not None and not self._is_sound(mode):
            # Something was said before that, perhaps, and compaction has left us this: what is safe in any case.
            mode = before or msgspec.structs.replace(mode, mode="review-all")
        elif wanted and before is not None and (mode is None or mode.time < before.time):
            log.warning("the mode on the control topic was deleted, or is an old one again: %s holds", before.mode)
            mode = before
        self._counted = mode
        normals = {key: one for key, one in control.normals.items() if self._is_sound(one)}
        incidents = {key: one for key, one in control.incidents.items() if self._is_sound(one)}
        return Control(normals, mode, incidents)

    def _is_sound(self, record: Said) -> bool:
        """Whether a record is signed as it should be. What a stream says is normal, workers learn and nobody signs."""
        streams = isinstance(record, NewNormal) and stream_reference(self._pipeline) is not None
        learned = streams and record.signature is None and record.by == LEARNER
        outcome = soundness(self._signatures, record)
        if learned or isinstance(outcome, bool):
            return True
        log.warning("what %s said at %s does not count: %s", record.by, record.time, outcome.replace("_", " "))
        return False

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
        said = control.normals.get((plan.hash, plan.model_version))
        raw = None if said is None else bytes(said.baseline)
        if raw != self._said[0]:
            try:
                found = control.baseline(plan.hash, plan.model_version)
            except ValueError as error:
                log.warning("the baseline on the control topic is left out: %s", error)
                found = None
            self._said = raw, found
        return self._said[1]

    def _count(self, wanted: str) -> int:
        now = datetime.now(UTC)
        return sum(incident.standing(now) == wanted for incident in self._incidents)
