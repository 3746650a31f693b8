"""Stage 6, effects: decisions, actions, review items, dead letters. A decision is encoded once and sent twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from streamproc.core.contract import Contract
from streamproc.core.decide.encode import encode_decisions
from streamproc.core.decide.frame import Context, Frame
from streamproc.core.plan import REVIEW, Plan
from streamproc.core.processor import Effects, Headers, Output
from streamproc.core.records import Source, headers_of
from streamproc.core.sensitive import Masker

Rows: TypeAlias = NDArray[np.int64]
"""Ascending numbers of the source records that the records of an output come from, one each."""


def make_effects(plan: Plan, frame: Frame, context: Context, masker: Masker | None) -> list[Effects]:
    """Everything that follows from a judged frame, lane by lane. The counts of all are with the first."""
    outputs = [*_decided(plan, frame, context, masker), _dead_letters(plan, frame, masker)]
    frame.count("events", plan.events.topic, len(frame.records))
    shares: list[list[Output]] = [[] for _ in frame.records.ends]
    for output, rows in outputs:
        begin = 0
        for share, end in zip(shares, np.searchsorted(rows, frame.records.ends).tolist(), strict=True):
            if end > begin:
                share.append(output.part(begin, end))
            begin = end
    counts = [frame.counts, *({} for _ in shares[1:])]
    return [Effects(records=share, counts=own) for share, own in zip(shares, counts, strict=True)]


def _decided(plan: Plan, frame: Frame, context: Context, masker: Masker | None) -> list[tuple[Output, Rows]]:
    if not len(frame) or frame.verdicts is None:
        return []
    encoded = encode_decisions(plan, frame, context, masker)
    keys, values = encoded.keys, encoded.values
    headers = headers_of("decision", [frame.records.headers[row] for row in frame.rows.tolist()])
    rows_by_decision: dict[str, list[int]] = defaultdict(list)
    distinct = frame.verdicts.distinct
    for row, verdict in enumerate(frame.verdicts.of_row.tolist()):
        rows_by_decision[distinct[verdict].decision].append(row)
    outputs = [(Output(plan.topics.decisions, keys, values, headers), frame.rows)]
    for decision, rows in rows_by_decision.items():
        frame.count("decisions", decision, len(rows))
        if decision == REVIEW:
            outputs.append((_review(plan, frame, rows, keys, values, masker), frame.rows[rows]))
        elif (topic := plan.actions.get(decision)) is not None:
            chosen = (
                [keys[row] for row in rows],
                [values[row] for row in rows],
                [headers[row] for row in rows],
            )
            outputs.append((Output(topic, *chosen), frame.rows[rows]))
    _count_verdicts(frame)
    return outputs


def _review(
    plan: Plan,
    frame: Frame,
    rows: list[int],
    keys: list[bytes | None],
    values: list[bytes],
    masker: Masker | None,
) -> Output:
    hidden = _paths(plan.contract, plan.events.sensitive)
    items = []
    for row in rows:
        event: Any = frame.events[row]
        if hidden and masker is not None:
            event = masker.event(event, hidden)
        items.append(orjson.dumps({"id": frame.ids[row], "decision": orjson.Fragment(values[row]), "event": event}))
    headers = headers_of("review-item", [frame.records.headers[frame.rows[row]] for row in rows])
    return Output(plan.topics.review, [keys[row] for row in rows], items, headers)


def _paths(contract: Contract, names: frozenset[str]) -> list[tuple[str, ...]]:
    return [field.path for field in contract.fields if field.name in names]


def _dead_letters(plan: Plan, frame: Frame, masker: Masker | None) -> tuple[Output, Rows]:
    records = frame.records
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: list[Headers] = []
    numbers = sorted(frame.refused)
    for number in numbers:
        letter, key, value = frame.refused[number], records.keys[number], records.values[number]
        if plan.dead_letter_mode != "plain":
            assert masker is not None
            value = masker.body(value, encrypt=plan.dead_letter_mode == "encrypted")
            if plan.events.key in plan.events.sensitive:
                key = None
        place = (records.partitions[number], records.offsets[number], records.timestamps[number])
        source = Source(records.topic, *map(int, place))
        keys.append(key)
        values.append(value)
        headers.append(letter.headers(plan.pipeline, source, records.headers[number], plan.dead_letter_mode))
        frame.count("dead_letters", letter.reason)
    return Output(plan.topics.dead_letters, keys, values, headers), np.array(numbers, np.int64)


def _count_verdicts(frame: Frame) -> None:
    assert frame.verdicts is not None
    distinct = frame.verdicts.distinct
    for number, rows in Counter(frame.verdicts.of_row.tolist()).items():
        frame.count("tiers", distinct[number].tier, rows)
        for rule in distinct[number].undecided:
            frame.count("undecided_rules", rule, rows)
