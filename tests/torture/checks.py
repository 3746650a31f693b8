"""What must hold after everything: each check says what is wrong, in a few lines at most."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import orjson

from examples.counter.counter import TABLE
from streamproc.baselines import watching
from streamproc.core.drift.baseline import EVERYTHING, PANE, Baseline
from streamproc.core.drift.panes import loads as load_panes
from streamproc.core.drift.processor import TABLE as DRIFT_TABLE
from streamproc.core.drift.processor import DriftProcessor
from streamproc.core.plan import DEAD_LETTERS
from streamproc.core.processor import Answer, Ask, Score
from streamproc.core.records import FIRST, TYPE
from streamproc.core.state import split_changelog_key
from streamproc.io.answers import Answers
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import Pipeline
from tests.kafka.test_equivalence import offline, source
from tests.record_schemas import record_problems
from tests.torture.cases import reviewed
from tests.torture.telling import some
from tests.torture.windows import remembered

ROWS = 500
RUN_DEPENDENT = frozenset({"model_error", "model_unavailable", "breaker_open", "timeout", "busy"})
"""Why the model gave no score: these hang on the batch and on the moment, as docs/guarantees.md says of answers."""

Place: TypeAlias = tuple[int, int]
"""Partition and offset."""


@dataclass
class Found:
    """Everything that was read back, as Kafka gave it. ``outputs`` are all records by topic, the counter's too."""

    pipeline: Pipeline
    events: Sequence[Any]
    outputs: Mapping[str, Sequence[Any]]
    changelog: Sequence[Any]
    totals: str
    codes: Sequence[int] = ()
    missed: Sequence[str] = field(default_factory=list)

    @cached_property
    def decisions(self) -> Sequence[Any]:
        return self.outputs[self.pipeline.plan.topics.decisions]

    @property
    def letters(self) -> str:
        """The topic of dead letters."""
        return self.pipeline.plan.topics.dead_letters

    def deciding(self, topic: str) -> list[Any]:
        """What the decide agent wrote to a topic: what people say, and what comes of that, stands there too."""
        return [record for record in self.outputs.get(topic, ()) if _is_first(record)]

    @cached_property
    def decided(self) -> list[Any]:
        """The contents of the decide agent's decisions."""
        return [orjson.loads(record.value) for record in self.deciding(self.pipeline.plan.topics.decisions)]

    @cached_property
    def counted(self) -> Sequence[Any]:
        """The counter's results, in the order of its input."""
        return sorted(self.outputs[self.totals], key=lambda record: (record.partition, record.offset))


Check: TypeAlias = Callable[[Found], Iterator[str]]


def once(found: Found) -> Iterator[str]:
    """Every event has exactly one decision or dead letter."""
    results = Counter((one["source"]["partition"], one["source"]["offset"]) for one in found.decided)
    results.update(source(record.value, record.headers)[1:] for record in found.deciding(found.letters))
    events = {(event.partition, event.offset) for event in found.events}
    yield from some("events without a result", events - set(results))
    yield from some("results without an event", set(results) - events)
    yield from some("events with more than one result", [place for place, times in results.items() if times > 1])


def ids(found: Found) -> Iterator[str]:
    """No two decisions have one id."""
    times = Counter(one["id"] for one in found.decided)
    yield from some("ids of more than one decision", [name for name, count in times.items() if count > 1])


def order(found: Found) -> Iterator[str]:
    """What comes from one partition stands in its order in every partition of every topic."""
    for topic in found.pipeline.plan.written:
        last: dict[tuple[int, int], int] = {}
        wrong = []
        for record in sorted(found.deciding(topic), key=lambda record: (record.partition, record.offset)):
            _, partition, offset = source(record.value, record.headers)
            if offset <= last.get((record.partition, partition), -1):
                wrong.append((record.partition, record.offset))
            last[record.partition, partition] = offset
        yield from some(f"records of {_role(topic)} out of order", wrong)


def schemas(found: Found) -> Iterator[str]:
    """Every record is what its schema says."""
    topics = found.pipeline.plan.topics
    for topic in {*found.pipeline.plan.written, topics.review, topics.review_events} - {topics.cases}:
        told = (
            f"{record.partition}-{record.offset}: {problem}"
            for record in found.outputs.get(topic, ())
            for problem in record_problems(record.value, record.headers)
        )
        yield from some(f"records of {_role(topic)} that break their schema", list(told))


def same(found: Found) -> Iterator[str]:
    """The bytes are those of an offline run over the same events with the same answers of the model."""
    pipeline = replace(found.pipeline, answers=Replayed(found.pipeline.answers, unscored(found.decided)))
    expected = offline(pipeline, list(found.events), ROWS)
    for topic in found.pipeline.plan.written:
        written = found.deciding(topic)
        records = {source(r.value, r.headers): (r.key, r.value, tuple(r.headers)) for r in written}
        wanted = expected.get(topic, {})
        if len(records) < len(written):
            yield f"{len(written) - len(records)} records are twice on {_role(topic)}"
        yield from some(f"records missing on {_role(topic)}", wanted.keys() - records.keys())
        yield from some(f"records too many on {_role(topic)}", records.keys() - wanted.keys())
        different = [place for place in wanted.keys() & records.keys() if wanted[place] != records[place]]
        yield from some(f"records of {_role(topic)} with other bytes", different)


def state(found: Found) -> Iterator[str]:
    """The counter told, and keeps in its lanes' state, what a plain loop over its input comes to."""
    counts: dict[tuple[int, bytes], int] = defaultdict(int)
    told: dict[Place, bytes] = {}
    for record in sorted(found.decisions, key=lambda record: (record.partition, record.offset)):
        counts[record.partition, record.key] += 1
        result = {"count": counts[record.partition, record.key], "partition": record.partition, "offset": record.offset}
        told[record.partition, record.offset] = orjson.dumps(result)
    results: dict[Place, list[bytes]] = defaultdict(list)
    for record in found.counted:
        value = orjson.loads(record.value)
        results[value["partition"], value["offset"]].append(record.value)
    yield from some("decisions that were not counted", told.keys() - results.keys())
    yield from some("counts of nothing", results.keys() - told.keys())
    yield from some("decisions counted twice", [place for place, values in results.items() if len(values) > 1])
    common = told.keys() & results.keys()
    yield from some("wrong counts", [place for place in common if results[place][0] != told[place]])
    kept: dict[tuple[int, bytes], int] = {}
    for record in sorted(found.changelog, key=lambda record: record.offset):
        table, key = split_changelog_key(record.key)
        if table == TABLE:
            kept[record.partition, key] = int(record.value)
    wrong = [key for key in kept.keys() | counts.keys() if kept.get(key) != counts.get(key)]
    yield from some(f"of {len(counts)} counts in the state, wrong", wrong)


def panes(found: Found) -> Iterator[str]:
    """Panes count every event once."""
    if found.pipeline.plan.drift is None:
        return
    watched, baseline = watching(found.pipeline)
    assert baseline is not None and watched.processor.watch is not None
    assert baseline.bins[-1].name == DEAD_LETTERS  # counts every record, whatever became of it
    counted = dict[Place, int]()
    for record in found.outputs[found.pipeline.plan.topics.panes]:
        read = load_panes(record.value, baseline.hash, watched.processor.watch.layouts)
        if read is None:
            yield "panes of another baseline"
            return
        own = read[1]
        everything = own.rows == EVERYTHING
        sums = own.counts[everything][:, -baseline.bins[-1].size :].sum(axis=1)
        for pane, events in zip(own.panes[own.pane_of[everything]].tolist(), sums.tolist(), strict=True):
            counted[own.partition, pane] = counted.get((own.partition, pane), 0) + events
    expected = Counter((event.partition, event.offset // PANE) for event in found.events)
    wrong = [place for place in counted.keys() | expected.keys() if counted.get(place, 0) != expected[place]]
    yield from some(f"of {len(expected)} panes, wrong", wrong)


def drift(found: Found) -> Iterator[str]:
    """Drift says, byte for byte, what one undisturbed pass over the panes says."""
    if found.pipeline.plan.drift is None:
        return
    topics = found.pipeline.plan.topics
    expected = replayed(*watching(found.pipeline), found.outputs[topics.panes])
    told = [(one.key, one.value) for one in found.outputs[topics.drift] if dict(one.headers)[TYPE] == b"drift"]
    if not expected:
        yield "nothing drifted, so nothing was shown"
    if told != expected:
        different = sum(a != b for a, b in zip(told, expected, strict=False))
        yield f"{len(told)} changes instead of {len(expected)}, {different} differ"


def replayed(
    watched: Pipeline, baseline: Baseline | None, panes: Iterable[Any]
) -> list[tuple[bytes | None, bytes | None]]:
    """Keys and values of what the drift processor makes of a panes log, lane by lane in one go."""
    assert baseline is not None and watched.plan.drift is not None
    topics = watched.plan.topics
    processor = DriftProcessor(watched.plan.pipeline, baseline, recover=watched.plan.drift.recover)
    run = Offline(processor, watched.answers.now, tables=(DRIFT_TABLE,))
    by_lane: dict[int, list[Any]] = defaultdict(list)
    for record in sorted(panes, key=lambda record: record.offset):
        by_lane[record.partition].append(record.value)
    outputs = [
        output
        for lane, values in by_lane.items()
        for output in run.process(batch_of(topics.panes, values, partition=lane)).records
        if output.topic == topics.drift
    ]
    return [entry for output in outputs for entry in zip(output.keys, output.values, strict=True)]


def twice(found: Found) -> Iterator[str]:
    """Each id is decided once in a lane, and what repeats it says by which decision."""
    plan = found.pipeline.plan
    if plan.events.dedupe is None:
        return
    decided = {(one["source"]["partition"], one["source"]["offset"]): one["id"] for one in found.decided}
    named = {source(one.value, one.headers)[1:]: dict(one.headers).get(FIRST) for one in found.deciding(found.letters)}
    first, again, wrong = dict[tuple[int, Any], str](), list[Place](), list[Place]()
    for event in sorted(found.events, key=lambda event: (event.partition, event.offset)):
        place = event.partition, event.offset
        if place in decided:
            own = event.partition, orjson.loads(event.value)[plan.events.id]
            if first.setdefault(own, decided[place]) != decided[place]:
                again.append(place)
        elif (name := named.get(place)) is not None:
            own = event.partition, orjson.loads(event.value)[plan.events.id]
            if first.get(own, "").encode() != name:
                wrong.append(place)
    yield from some("events whose id was decided before", again)
    yield from some("duplicates that name another decision", wrong)
    if not any(named.values()):
        yield "nothing was sent twice, so nothing was shown"


def ends(found: Found) -> Iterator[str]:
    """Workers end when told to, and never by themselves for a reason that a restart does not mend."""
    yield from some("exit codes at the end", [code for code in found.codes if code not in (0, -15)])


def came_about(found: Found) -> Iterator[str]:
    """Every fault was one."""
    yield from found.missed


CHECKS: Sequence[Check] = (
    once,
    ids,
    order,
    schemas,
    same,
    state,
    panes,
    drift,
    twice,
    remembered,
    reviewed,
    ends,
    came_about,
)


def unscored(decided: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Why decisions have no score, by id, where the reason depends on the run."""
    reasons = ((one["id"], one["score_reason"]) for one in decided)
    return {name: reason for name, reason in reasons if reason in RUN_DEPENDENT}


class Replayed(Answers):
    """The model's answers again: none where there was none for a passing reason, the model's own everywhere else."""

    def __init__(self, answers: Answers, reasons: Mapping[str, str]) -> None:
        super().__init__({})
        self._answers, self._reasons = answers, reasons

    def now(self, ask: Ask) -> Answer:
        if not isinstance(ask, Score):
            return self._answers.now(ask)
        reasons = [self._reasons.get(name) for name in ask.ids]
        rows = np.array([reason is None for reason in reasons], bool)
        columns = {name: values[rows] for name, values in ask.columns.items()}
        answer = self._answers.now(Score(ask.model, columns, [n for n, r in zip(ask.ids, rows, strict=True) if r]))
        values: list[Any] = [None] * len(rows)
        for row, value, reason in zip(np.flatnonzero(rows).tolist(), answer.values, answer.reasons, strict=True):
            values[row], reasons[row] = value, reason
        return Answer(values, reasons, answer.version)


def _is_first(record: Any) -> bool:
    named = dict(record.headers)
    if named.get(TYPE) == b"dead-letter":
        return named["sp-stage"] not in (b"intake", b"review")
    return named.get(TYPE) != b"verdict" and b'"revision":' not in (record.value or b"")


def _role(topic: str) -> str:
    return topic.rpartition(".")[2]
