"""Plans and batches for tests, made without a pipeline file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson

from streamproc.core.contract import Contract
from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.expressions import compile_expression
from streamproc.core.names import MODEL_STATUS, SCORED_BY
from streamproc.core.plan import CONFIDENCE, EVENT_TIME, SCORE, Events, Feature, ModelPlan, Plan, Rule
from streamproc.core.processor import Answer, Ask, Batch, Effects, Score
from streamproc.offline import EPOCH, Offline, batch_of

import polars as pl  # isort: skip

TOPIC = "t.events"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "integer"},
        "amount": {"type": ["number", "null"]},
        "count": {"type": ["integer", "null"]},
        "name": {"type": ["string", "null"]},
        "ok": {"type": ["boolean", "null"]},
        "at": {"type": ["string", "null"]},
        "address": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def make_plan(
    rules: Sequence[tuple[str, str | None, str]] = (("default", None, "approve"),),
    *,
    features: Mapping[str, str] | None = None,
    inputs: Sequence[str] = (),
    confidence: str | None = None,
    fallback: Sequence[tuple[str, str | None, str]] = (),
    observe: Sequence[str] = (),
    schema: Mapping[str, Any] = SCHEMA,
    params: Mapping[str, Any] | None = None,
    stand_ins: Sequence[str] = (),
    shadows: Sequence[str] = (),
    columns: Sequence[str] = (),
    **events: Any,
) -> Plan:
    """A plan with rules as (id, when, decide); a model where there are inputs, which stand-ins and shadows read too.

    ``columns`` are what it shows of models: all that is no text is a number.
    """
    contract, params = Contract(schema), params or {}
    known = {**contract.columns, EVENT_TIME: pl.Datetime("us", "UTC")}
    made = []
    for name, text in (features or {}).items():
        expression = compile_expression(text, known, params, finite=True)
        known[name] = expression.dtype
        made.append(Feature(name, expression))
    plain = dict(known)
    if inputs:
        known[SCORE] = pl.Float64()
    for name in columns:
        known[name] = pl.String() if name in (MODEL_STATUS, SCORED_BY) else pl.Float64()
        if name in (MODEL_STATUS, SCORED_BY):
            plain[name] = known[name]
    trust = None if confidence is None else compile_expression(confidence, known, params, want="number", finite=True)
    if trust is not None:
        known[CONFIDENCE] = pl.Float64()

    def rule(row: tuple[str, str | None, str], columns: Mapping[str, Any]) -> Rule:
        name, text, decision = row
        when = None if text is None else compile_expression(text, columns, params, want="boolean", finite=True)
        return Rule(name, decision, when, f"R-{name}", name in observe)

    return Plan(
        pipeline="t",
        hash="0" * 32,
        events=Events(topic=TOPIC, **events),
        contract=contract,
        rules=tuple(rule(row, known) for row in rules),
        actions={"approve": "t.approvals", "decline": "t.declines"},
        features=tuple(made),
        model=ModelPlan("m", tuple(inputs), "v1") if inputs else None,
        confidence=trust,
        fallback=tuple(rule(row, plain) for row in fallback),
        recorded=(*(features or {}), *columns, "amount", "count", "name", "ok"),
        stand_ins=tuple(ModelPlan(name, tuple(inputs), f"v-{name}") for name in stand_ins),
        shadows=tuple(ModelPlan(name, tuple(inputs), f"v-{name}") for name in shadows),
        model_columns=tuple(columns),
        dead_letter_mode="masked" if events.get("sensitive") else "plain",
    )


def mean_score(ask: Ask) -> Answer:
    """A model that treats each row by itself: the sine of the sum of its inputs; no score where one is missing."""
    assert isinstance(ask, Score)
    rows = len(ask.ids)
    total = np.zeros(rows)
    for column in ask.columns.values():
        total += column.astype(np.float64)
    values = np.sin(total)
    reasons = ["not_finite" if not finite else None for finite in np.isfinite(values)]
    return Answer(values.tolist(), reasons, "v1")


def decide(
    plan: Plan,
    values: Sequence[bytes | Mapping[str, Any] | None],
    *,
    answer: Any = mean_score,
    **options: Any,
) -> Effects:
    """The effects of one batch of events, given as bytes or as objects."""
    raw = [value if value is None or isinstance(value, bytes) else orjson.dumps(value) for value in values]
    batch = batch_of(plan.events.topic, raw, **options)
    return decide_batch(plan, batch, answer=answer)


def decide_batch(
    plan: Plan, batch: Batch, *, answer: Any = mean_score, now: datetime = EPOCH, masker: Any = None
) -> Effects:
    return Offline(DecideProcessor.of(plan, masker), answer, tables=TABLES, now=now).process(batch)


def sent(effects: Effects, topic: str) -> list[Any]:
    """The JSON values sent to a topic, in order."""
    return [orjson.loads(v or b"null") for output in effects.records if output.topic == topic for v in output.values]


def decisions(effects: Effects) -> list[dict[str, Any]]:
    return sent(effects, "t.decisions")


def letters(effects: Effects) -> list[dict[str, str]]:
    """The headers of the dead letters."""
    return [
        {name: content.decode() for name, content in headers}
        for output in effects.records
        if output.topic == "t.dead-letter"
        for headers in output.headers
    ]


def flat(effects: Effects) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that was sent, by topic and in order."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for output in effects.records:
        found.setdefault(output.topic, []).extend(zip(output.keys, output.values, output.headers, strict=True))
    return found
