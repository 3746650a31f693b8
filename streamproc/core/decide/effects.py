"""Stage 6, effects: decisions, actions, cases, dead letters. A decision is encoded once and sent twice."""

from __future__ import annotations

import numpy as np

from streamproc.core.decide.cases import case_outputs
from streamproc.core.decide.encode import Encoder
from streamproc.core.decide.frame import Context, Frame, Rows
from streamproc.core.plan import ABSTAIN, Plan
from streamproc.core.processor import Effects, Headers, Output
from streamproc.core.records import Source, headers_of
from streamproc.core.sensitive import Masker


def make_effects(plan: Plan, encoder: Encoder, frame: Frame, context: Context, masker: Masker | None) -> list[Effects]:
    """Everything that follows from a judged frame, lane by lane. The counts of all are with the first."""
    outputs = [*_decided(plan, encoder, frame, context, masker), *frame.outputs]
    if frame.refused:
        outputs.append(dead_letters(plan, frame, masker))
    frame.count("events", plan.events.topic, len(frame.records))
    shares: list[list[Output]] = [[] for _ in frame.records.ends]
    for output, rows in outputs:
        begin = 0
        for share, end in zip(shares, np.searchsorted(rows, frame.records.ends).tolist(), strict=True):
            if end > begin:
                share.append(output.part(begin, end))
            begin = end
    counts = [frame.counts, *({} for _ in shares[1:])]
    return [
        Effects(records=share, state=frame.changes.get(lane, {}), counts=own)
        for lane, (share, own) in enumerate(zip(shares, counts, strict=True))
    ]


def _decided(
    plan: Plan, encoder: Encoder, frame: Frame, context: Context, masker: Masker | None
) -> list[tuple[Output, Rows]]:
    if not len(frame) or frame.verdicts is None:
        return []
    encoded = encoder(frame, context, masker)
    keys, values = encoded.keys, encoded.values
    sources = list(map(frame.records.headers.__getitem__, frame.rows.tolist()))
    headers = headers_of("decision", sources)
    lanes = frame.records.partitions[frame.rows]
    outputs = [(Output(plan.topics.decisions, keys, values, headers, lanes), frame.rows)]
    distinct, of_row = frame.verdicts.distinct, frame.verdicts.of_row
    decisions = list(dict.fromkeys(verdict.decision for verdict in distinct))
    numbers = np.array([decisions.index(verdict.decision) for verdict in distinct], np.int64)[of_row]
    for number, decision in enumerate(decisions):
        rows = np.flatnonzero(numbers == number)
        frame.count("decisions", decision, len(rows))
        if (topic := plan.topics.abstained if decision == ABSTAIN else plan.actions.get(decision)) is not None:
            same = list(map(values.__getitem__, rows.tolist()))
            outputs.append(_of_rows(topic, keys, same, headers, frame, rows))
    _count_verdicts(frame)
    return outputs + case_outputs(plan, frame, keys, values, masker)


def _of_rows(
    topic: str, keys: list[bytes | None], values: list[bytes], headers: list[Headers], frame: Frame, rows: Rows
) -> tuple[Output, Rows]:
    """``keys`` and ``headers`` are of all rows of the frame, ``values`` of those that are chosen."""
    chosen = rows.tolist()
    own = list(map(keys.__getitem__, chosen)), values, list(map(headers.__getitem__, chosen))
    return Output(topic, *own), frame.rows[rows]


def dead_letters(plan: Plan, frame: Frame, masker: Masker | None) -> tuple[Output, Rows]:
    """The events that left the frame, as they may leave the process, and the numbers of their records."""
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
    for verdict, rows in zip(
        distinct, np.bincount(frame.verdicts.of_row, minlength=len(distinct)).tolist(), strict=True
    ):
        frame.count("tiers", verdict.tier, rows)
        if verdict.fallback_reason is not None:
            frame.count("fallback_reasons", verdict.fallback_reason, rows)
        for rule in verdict.undecided:
            frame.count("undecided_rules", rule, rows)
