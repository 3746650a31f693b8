"""The ``tests:`` block of a pipeline file, run through the real decide processor without Kafka.

::

    results = run_tests(open_pipeline(Path("pipeline.yaml"), masked=False))
    assert all(result.passed for result in results)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import orjson

from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.decide.frame import MODE
from streamproc.core.drift.detector import LEVELS
from streamproc.core.drift.view import VIEW, DriftView, Standing
from streamproc.core.llm.budget import BudgetPlan
from streamproc.core.names import MODEL_CONFIDENCE, NO_SUCH_KEY
from streamproc.core.plan import ModelPlan, Plan
from streamproc.core.processor import Answer, Ask, Batch, Effects, Lookup, Seen, run
from streamproc.core.records import text_headers
from streamproc.core.state import Tables
from streamproc.core.table import RowReader
from streamproc.offline import batch_of
from streamproc.pipeline import Pipeline, in_clear
from streamproc.plan.cases import event_bytes
from streamproc.plan.models import TestPart

SEVERITY = 0.3
"""Of what drifts in a test: medium."""
NOT_ASKED: Final = "not_asked"
"""Why other models have no score in a test that gives one."""
TOLERANCE: Final = 1e-9
RECORD_TIME: Final = datetime(2024, 1, 1, 12, tzinfo=UTC)
"""The record timestamp of a test's event: the event time of pipelines that name no time field."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One stated expectation that was not met. ``what`` is its path, like ``features.tenure``."""

    what: str
    expected: Any
    got: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event: its decision, or the reason and detail of its dead letter."""

    decision: Mapping[str, Any] | None = None
    dead_letter: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one test."""

    name: str
    line: int
    outcome: Outcome
    differences: Sequence[Difference]

    @property
    def passed(self) -> bool:
        """Whether every expectation was met."""
        return not self.differences


def run_tests(pipeline: Pipeline, chosen: Callable[[str], bool] = lambda name: True) -> list[Result]:
    """The results of the file's tests, in file order; only of those whose name is chosen."""
    processor = DecideProcessor.of(_free(in_clear(pipeline.plan)))  # a test compares values and not their hashes
    results = []
    for index, test in enumerate(pipeline.loaded.file.tests):
        if chosen(test.name):
            line, _ = pipeline.loaded.document.spot(("tests", index))
            outcome = decide(processor, test, pipeline.answers.now)
            results.append(Result(test.name, line, outcome, compare(test, outcome)))
    return results


def _free(plan: Plan) -> Plan:
    """The plan without budgets: answers that stand in a file cost nothing."""

    def free(model: ModelPlan) -> ModelPlan:
        return model if model.llm is None else replace(model, llm=replace(model.llm, budget=BudgetPlan()))

    stand_ins, shadows = tuple(map(free, plan.stand_ins)), tuple(map(free, plan.shadows))
    return replace(plan, model=plan.model and free(plan.model), stand_ins=stand_ins, shadows=shadows)


def decide(processor: DecideProcessor, test: TestPart, model: Callable[[Ask], Answer]) -> Outcome:
    """What the processor makes of the test's event, ``age`` after its event time."""
    plan, kept, seen = processor.plan, dict[str, Answer](), _seen(test)

    def answer(ask: Ask) -> Answer:
        if isinstance(ask, Lookup):
            return looked_up(plan, test, ask)
        count, name = len(ask.ids), ask.model
        scoring = [one.name for one in plan.models[1 if test.no_score is not None else 0 :]][:1]
        if test.score is not None and name in scoring:
            own = {} if test.model_confidence is None else {MODEL_CONFIDENCE: np.full(count, test.model_confidence)}
            return Answer([test.score] * count, [None] * count, columns=own)
        if test.answer is not None and name == plan.models[0].name:
            return Answer([orjson.dumps(test.answer).decode()] * count, [None] * count)
        if test.score is not None or test.no_score is not None or test.answer is not None or name in plan.in_words:
            return Answer.nothing(count, test.no_score or NOT_ASKED)
        if name not in kept:
            kept[name] = model(ask)
        return kept[name]

    def at(now: datetime) -> Outcome:
        state = Tables(TABLES)
        if test.history:
            before = run(processor.process(_batch(plan, test.history), state, seen, now), answer)
            state.apply(before.state)
        steps = processor.process(_batch(plan, [test.event], len(test.history)), state, seen, now)
        return _outcome(plan, run(steps, answer))

    # Nothing is too old in the year 1: the first run is for the event time, the second has the age.
    first = at(datetime.min.replace(tzinfo=UTC) + (plan.events.max_age or timedelta()))
    if plan.events.max_age is None or first.decision is None:
        return first
    return at(datetime.fromisoformat(first.decision["time"]) + (test.age or timedelta()))


def compare(test: TestPart, outcome: Outcome) -> list[Difference]:
    """Every stated expectation that the outcome does not meet."""
    expect = test.expect
    decision: Mapping[str, Any] = outcome.decision or {}
    refused = None if outcome.dead_letter is None else f"dead letter {outcome.dead_letter}"
    if expect.dead_letter is not None:
        if expect.dead_letter == outcome.dead_letter:
            return []
        got = outcome.dead_letter or f"decision {decision['decision']}"
        return [Difference("dead_letter", expect.dead_letter, got)]
    differences = []
    for key in sorted(expect.model_fields_set, key=list(type(expect).model_fields).index):
        wanted = getattr(expect, key)
        if key == "features":
            shown: Mapping[str, Any] = decision.get("features") or {}
            pairs = [(f"features.{name}", value, shown.get(name)) for name, value in (wanted or {}).items()]
        else:
            pairs = [(key, wanted, decision.get(key))]
        differences += [
            Difference(what, value, refused or got) for what, value, got in pairs if refused or not same(value, got)
        ]
    return differences


def same(expected: Any, got: Any) -> bool:
    """Equal; numbers within 1e-9 of their size.

    >>> same(0.1 + 0.2, 0.3), same(1, True), same(None, 0)
    (True, False, False)
    """
    numbers = isinstance(expected, int | float) and isinstance(got, int | float)
    if numbers and not isinstance(expected, bool) and not isinstance(got, bool):
        return math.isclose(expected, got, rel_tol=TOLERANCE)
    return type(expected) is type(got) and bool(expected == got)


def looked_up(plan: Plan, test: TestPart, ask: Lookup) -> Answer:
    """What the test gives of a table or a store; what it does not give is not there."""
    [source] = [one for one in plan.sources if one.name == ask.source]
    count, row = len(ask.keys), test.tables.get(ask.source, test.stores.get(ask.source))
    if row is None:
        return Answer.nothing(count, NO_SUCH_KEY)
    if source.contract is not None:
        [found], _ = RowReader(source.contract, ask.fields).read([event_bytes(row)])
    elif isinstance(row, dict):
        found = tuple(row.get(name) for name in ask.fields)
    else:
        found = (row,) * len(ask.fields)
    return Answer([found] * count, [None if found is not None else NO_SUCH_KEY] * count)


def _seen(test: TestPart) -> Seen:
    """What there is to see where columns stand as the test says, and people let automation do that."""
    everywhere = {
        name: Standing(LEVELS.index(level), SEVERITY if level == "drifting" else 0.0)
        for name, level in test.drift.items()
        if level != "stable"
    }
    return Seen({VIEW: DriftView(everywhere), MODE: test.mode})


def _batch(plan: Plan, events: Sequence[Mapping[str, Any]], first: int = 0) -> Batch:
    stamp = int(RECORD_TIME.timestamp() * 1000)
    return batch_of(plan.events.topic, list(map(event_bytes, events)), first_offset=first, timestamp=stamp)


def _outcome(plan: Plan, effects: Effects) -> Outcome:
    for output in effects.records:
        if output.topic == plan.topics.decisions:
            return Outcome(decision=orjson.loads(output.values[0] or b"{}"))
        if output.topic == plan.topics.dead_letters:
            headers = text_headers(output.headers[0])
            return Outcome(
                dead_letter=headers["sp-reason"],
                detail=f"{headers['sp-path']} {headers['sp-detail']}".strip(),
            )
    raise AssertionError("an event becomes a decision or a dead letter")
