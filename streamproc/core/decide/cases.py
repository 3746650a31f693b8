"""What people are asked: the events of a batch that are for review, and a sample of those that are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson
import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.decide.frame import Frame, Rows
from streamproc.core.plan import REVIEW, Plan
from streamproc.core.processor import Output
from streamproc.core.records import VERSIONS, RecordType, headers_of
from streamproc.core.review.event import Kind
from streamproc.core.review.policy import MILLION
from streamproc.core.review.sample import chosen
from streamproc.core.sensitive import Masker

KINDS: Sequence[Kind] = ("review", "audit")
ALONE = {"priority": None, "opened": None, "deadline": None}
"""What review items say of their case where the pipeline has no review part: there is none."""


def case_outputs(
    plan: Plan, frame: Frame, keys: list[bytes | None], values: list[bytes], masker: Masker | None
) -> list[tuple[Output, Rows]]:
    """Review items, or cases where the pipeline says how people review. ``keys`` and ``values`` are the decisions'."""
    assert frame.verdicts is not None
    distinct, of_row = frame.verdicts.distinct, frame.verdicts.of_row
    asked = np.array([verdict.decision == REVIEW for verdict in distinct])[of_row]
    audited, review = np.zeros(len(of_row), np.bool_), plan.review
    if review is not None and review.audit is not None:
        alone = np.flatnonzero(np.array([verdict.is_alone for verdict in distinct])[of_row])
        ids = pl.Series(frame.ids, dtype=pl.String).gather(alone)
        audited[alone] = chosen(ids, review.audit, "audit")
    rows = np.flatnonzero(asked | audited)
    if not len(rows):
        return []
    numbers = frame.rows[rows]
    made = zip(
        (frame.ids[row] for row in rows.tolist()),
        (orjson.Fragment(values[row]) for row in rows.tolist()),
        _events(plan, frame, rows, masker),
        strict=True,
    )
    record: RecordType
    if review is None:
        topic, record = plan.topics.review, "review-item"
        written = [
            orjson.dumps({"id": one, "blind": False, "decision": decision, "event": event, **ALONE})
            for one, decision, event in made
        ]
    else:
        topic, record = plan.topics.cases, "case"
        share = None if review.audit is None else review.audit / MILLION
        kinds = [KINDS[audit] for audit in audited[rows].tolist()]
        shares = [share if kind == "audit" else None for kind in kinds]
        common = {"version": VERSIONS["case"]}
        written = [
            orjson.dumps(
                {
                    "id": one,
                    "kind": kind,
                    "share": share,
                    "priority": priority,
                    **common,
                    "decision": decision,
                    "event": event,
                }
            )
            for (one, decision, event), kind, share, priority in zip(
                made, kinds, shares, _priorities(plan, frame, rows), strict=True
            )
        ]
        for kind in KINDS:
            frame.count("cases", kind, kinds.count(kind))
    headers = headers_of(record, list(map(frame.records.headers.__getitem__, numbers.tolist())))
    own = [keys[row] for row in rows.tolist()]
    return [(Output(topic, own, written, headers, frame.records.partitions[numbers]), numbers)]


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
