"""The cap: how many decisions drift may change. Beyond that, events are decided as if nothing drifted, and it is told.

Rules are judged a second time, with every column of drift as it is where nothing drifts. That happens only to batches
in which something does. What may be changed is counted for each lane, event by event in the order of offsets: it does
not depend on how batches are cut.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from copy import copy
from dataclasses import replace
from typing import Final

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide.bucket import TOKEN, Bucket, encode, read
from streamproc.core.decide.columns import confidence_stage
from streamproc.core.decide.drift import steady, stirs
from streamproc.core.decide.encode import ISO
from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.decide.rules import rules_stage
from streamproc.core.decide.verdict import Drifted, Verdict, Verdicts
from streamproc.core.plan import EVENT_TIME, DriftPlan, Plan
from streamproc.core.processor import Answer, Ask, Output
from streamproc.core.records import TYPED

TABLE: Final = "cap"
KEY: Final = b"bucket"
ESCALATION_VERSION: Final = 1


def cap_stage(plan: Plan) -> Stage:
    """Takes back what drift changes beyond ``max_extra_review``. Comes after the rules, and adds no column."""
    drift = plan.drift
    assert drift is not None and drift.max_extra_review is not None
    share = drift.max_extra_review
    confidence, rules = confidence_stage(plan), rules_stage(plan)
    stable = steady(drift)
    moved = (*drift.reads, *confidence.writes)

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        if not len(frame) or not stirs(drift, context.seen):
            return
        still = replace(frame, columns=frame.columns.with_columns_seq(stable), verdicts=None)
        yield from confidence.run(still, context)
        yield from rules.run(still, context)
        wanted = np.flatnonzero(_decisions(frame) != _decisions(still))
        if not len(wanted):
            return
        capped, escalated = _take(share, frame, context, wanted)
        if escalated:
            _tell(plan, drift, frame, escalated)
        _settle(frame, still, wanted, capped)
        _show(frame, still, wanted[capped], moved)

    return Stage("cap", confidence.reads | rules.reads, (), run)


def _decisions(frame: Frame) -> NDArray[np.str_]:
    """What is decided, for each row."""
    assert frame.verdicts is not None
    return np.array([verdict.decision for verdict in frame.verdicts.distinct])[frame.verdicts.of_row]


def _take(
    share: int, frame: Frame, context: Context, wanted: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], list[tuple[int, Bucket]]]:
    """Which of the rows that drift wants to change are capped, and where that is told, with the bucket as it was."""
    records, numbers = frame.records, frame.rows[wanted]
    lanes, offsets = np.searchsorted(records.ends, numbers, side="right").tolist(), records.offsets[numbers].tolist()
    capped, escalated = np.zeros(len(wanted), np.bool_), list[tuple[int, Bucket]]()
    buckets = dict[int, Bucket]()
    for place, (lane, offset) in enumerate(zip(lanes, offsets, strict=True)):
        bucket = buckets.get(lane)
        if bucket is None:
            [raw] = context.states[lane].get_many(TABLE, [KEY])
            bucket = buckets[lane] = read(raw, share, offset)
        outcome = bucket.take(share, offset)
        capped[place] = outcome != "changed"
        if outcome == "escalated":
            escalated.append((int(wanted[place]), copy(bucket)))
    for lane, bucket in buckets.items():
        frame.change(lane, TABLE, {KEY: encode(bucket)})
    return capped, escalated


def _settle(frame: Frame, still: Frame, wanted: NDArray[np.int64], capped: NDArray[np.bool_]) -> None:
    """Give the rows that drift wants to change their verdicts, which say so."""
    assert frame.verdicts is not None and still.verdicts is not None
    drifting, stable = frame.verdicts.distinct, still.verdicts.distinct
    pairs = frame.verdicts.of_row[wanted] * len(stable) + still.verdicts.of_row[wanted]
    kinds, of_kind = np.unique(2 * pairs + capped, return_inverse=True)
    made = list[Verdict]()
    for kind in kinds.tolist():
        with_drift, without = drifting[kind // 2 // len(stable)], stable[kind // 2 % len(stable)]
        if kind % 2:
            made.append(replace(without, drifted=Drifted(capped=with_drift.decision)))
        else:
            made.append(replace(with_drift, drifted=Drifted(without=without.decision)))
    for verdict, rows in zip(made, np.bincount(of_kind).tolist(), strict=True):
        assert verdict.drifted is not None
        name, decision = "drift_changed", verdict.decision
        if verdict.drifted.capped is not None:
            name, decision = "drift_capped", verdict.drifted.capped
        frame.count(name, decision, rows)
    of_row = frame.verdicts.of_row.copy()
    of_row[wanted] = of_kind + len(drifting)
    used, of_row = np.unique(of_row, return_inverse=True)
    distinct = [*drifting, *made]
    frame.verdicts = Verdicts([distinct[number] for number in used.tolist()], of_row)


def _show(frame: Frame, still: Frame, rows: NDArray[np.int64], moved: Sequence[str]) -> None:
    """Let capped rows show what they were decided by."""
    mask = np.zeros(len(frame), np.bool_)
    mask[rows] = True
    chosen = pl.Series(mask)
    columns = [still.columns[name].zip_with(chosen, frame.columns[name]) for name in moved]
    frame.columns = frame.columns.with_columns_seq(columns)


def _tell(plan: Plan, drift: DriftPlan, frame: Frame, escalated: Sequence[tuple[int, Bucket]]) -> None:
    """Send a record for each lane in which drift began to be capped."""
    rows = np.array([row for row, _ in escalated], np.int64)
    shown = frame.columns[rows].select(*drift.reads, pl.col(EVENT_TIME).dt.strftime(ISO)).rows(named=True)
    partitions = frame.records.partitions[frame.rows[rows]].tolist()
    assert drift.max_extra_review is not None and frame.verdicts is not None
    values = list[bytes]()
    for (row, bucket), partition, columns in zip(escalated, partitions, shown, strict=True):
        time = columns.pop(EVENT_TIME)
        told = {
            "id": frame.ids[row],
            "version": ESCALATION_VERSION,
            "pipeline": plan.pipeline,
            "plan": plan.hash,
            "time": time,
            "partition": partition,
            "offset": bucket.at,
            "share": drift.max_extra_review / TOKEN,
            "since": bucket.since,
            "events": bucket.events,
            "changed": bucket.changed,
            "capped": bucket.capped,
            "columns": columns,
        }
        values.append(orjson.dumps(told))
    keys = [b"%d" % partition for partition in partitions]
    output = Output(plan.topics.drift, keys, values, [TYPED["drift-escalation"]] * len(values))
    frame.outputs.append((output, frame.rows[rows]))
    frame.count("drift_escalations", plan.events.topic, len(values))
