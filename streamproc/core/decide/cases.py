"""What people are asked: the events of a batch that are for review, and a sample of those that are not."""

from __future__ import annotations

import numpy as np
import orjson
import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.decide.frame import Frame, Rows
from streamproc.core.plan import REVIEW, Plan
from streamproc.core.processor import Output
from streamproc.core.records import VERSIONS, headers_of
from streamproc.core.review.event import Kind
from streamproc.core.review.policy import MILLION
from streamproc.core.review.sample import chosen
from streamproc.core.sensitive import Masker

ALONE = {"priority": None, "opened": None, "deadline": None}
"""What review items say of their case where the pipeline has no review part: there is none."""


def case_outputs(
    plan: Plan, frame: Frame, keys: list[bytes | None], values: list[bytes], masker: Masker | None
) -> list[tuple[Output, Rows]]:
    """Review items, or cases where the pipeline says how people review. ``keys`` and ``values`` are the decisions'."""
    assert frame.verdicts is not None
    distinct, of_row = frame.verdicts.distinct, frame.verdicts.of_row
    asked = np.flatnonzero(np.array([verdict.decision == REVIEW for verdict in distinct])[of_row])
    outputs = _outputs(plan, frame, asked, "review", keys, values, masker)
    if plan.review is not None and plan.review.audit is not None:
        alone = np.flatnonzero(np.array([verdict.is_alone for verdict in distinct])[of_row])
        ids = pl.Series(frame.ids, dtype=pl.String).gather(alone)
        audited = alone[chosen(ids, plan.review.audit, "audit")]
        outputs += _outputs(plan, frame, audited, "audit", keys, values, masker)
    return outputs


def _outputs(
    plan: Plan,
    frame: Frame,
    rows: Rows,
    kind: Kind,
    keys: list[bytes | None],
    values: list[bytes],
    masker: Masker | None,
) -> list[tuple[Output, Rows]]:
    if not len(rows):
        return []
    numbers, events = frame.rows[rows], _events(plan, frame, rows, masker)
    sources = list(map(frame.records.headers.__getitem__, numbers.tolist()))
    decisions = [orjson.Fragment(values[row]) for row in rows.tolist()]
    ids, review = [frame.ids[row] for row in rows.tolist()], plan.review
    if review is None:
        topic, record = plan.topics.review, headers_of("review-item", sources)
        items = zip(ids, decisions, events, strict=True)
        written = [
            orjson.dumps({"id": one, "blind": False, "decision": decision, "event": event, **ALONE})
            for one, decision, event in items
        ]
    else:
        topic, record = plan.topics.cases, headers_of("case", sources)
        share = review.audit / MILLION if kind == "audit" and review.audit is not None else None
        common = {"version": VERSIONS["case"], "kind": kind, "share": share}
        cases = zip(ids, _priorities(plan, frame, rows), decisions, events, strict=True)
        written = [
            orjson.dumps({"id": one, **common, "priority": priority, "decision": decision, "event": event})
            for one, priority, decision, event in cases
        ]
        frame.count("cases", kind, len(rows))
    lanes = frame.records.partitions[numbers]
    return [(Output(topic, [keys[row] for row in rows.tolist()], written, record, lanes), numbers)]


def _priorities(plan: Plan, frame: Frame, rows: Rows) -> list[float | None]:
    assert plan.review is not None
    priority = plan.review.priority
    if priority is None:
        return [None] * len(rows)
    chosen_rows = frame.columns[rows]
    made: list[float | None] = chosen_rows.select(priority.expr.cast(pl.Float64).alias("p"))["p"].to_list()
    return made * len(rows) if len(made) == 1 < len(rows) else made


def _events(plan: Plan, frame: Frame, rows: Rows, masker: Masker | None) -> list[object]:
    """Events written anew: of a key that is there twice, the value that counted is shown."""
    hidden = _paths(plan.contract, plan.events.sensitive)
    events = [orjson.loads(frame.records.values[number] or b"null") for number in frame.rows[rows].tolist()]
    return [masker.event(event, hidden) for event in events] if hidden and masker is not None else events


def _paths(contract: Contract, names: frozenset[str]) -> list[tuple[str, ...]]:
    return [field.path for field in contract.fields if field.name in names]
