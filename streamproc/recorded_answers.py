"""What language models answered about events of the past: in the decisions topic, or in a field of a file's rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson

from streamproc.core.decide.events import decision_ids
from streamproc.core.decide.recorded import is_of, kept, tells
from streamproc.core.plan import Plan
from streamproc.core.records import lane_of
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import reading
from streamproc.row_fields import taken
from streamproc.rows import chunks

ENOUGH = 0.9
"""So large a share of events must have answers. The others are left out then: what they lack would count as missing."""
BEFORE = timedelta(hours=1)
"""A decision may have an earlier timestamp than its event, where the clocks of two machines differ."""
BEGIN = b'{"id":"'
FIELD = "llm_answers"
"""The field of answers in events that are kept, where the file names none."""


@dataclass(slots=True)
class Recorded:
    """Of so many ``events``, ``told`` have a decision that tells of an answer. ``said`` are such decisions by id.

    ``of`` says what the events are, for people.
    """

    plan: Plan
    events: int = 0
    told: int = 0
    said: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    of: str = "the reference"

    @property
    def enough(self) -> bool:
        """Whether what needs answers can be watched."""
        return self.told > 0 and self.told >= ENOUGH * self.events

    @property
    def unwatched(self) -> Mapping[str, str]:
        """The columns that cannot be watched, and why."""
        if self.enough:
            return dict.fromkeys(sorted(self.plan.follows_from_hashes), "it follows from a text that is kept as a hash")
        reason = f"{self.told:,} of {self.events:,} events of {self.of} have a recorded answer of the language model"
        return dict.fromkeys(sorted(self.plan.of_answers), reason)


async def in_decisions(connection: Connection, plan: Plan, topic: str, records: Sequence[Any]) -> Recorded | None:
    """What the pipeline's own decisions tell of events of a topic; ``None`` where no language model decides.

    Decisions by another version of the models tell nothing: another prompt gives other answers.
    """
    if not plan.of_answers:
        return None
    wanted = set(ids_of(plan, records))
    found = Recorded(plan, len(wanted), of=topic)
    decisions = plan.topics.decisions
    if not records or topic != plan.events.topic or decisions not in await admin.describe(connection, [decisions]):
        return found
    begin = min(record.timestamp for record in records) / 1000 - BEFORE.total_seconds()
    async with reading(connection, decisions) as reader:
        lanes = {lane % reader.partitions for lane in map(lane_of, wanted) if lane is not None}
        async for some in reader.scan(datetime.fromtimestamp(max(0.0, begin), UTC), only=lanes):
            for record in some:
                _keep(found, wanted, record.value or b"")
            if len(found.said) == len(wanted):
                break
    found.told = len(found.said)
    return found


def ids_of(plan: Plan, records: Sequence[Any]) -> list[str]:
    """The ids of the decisions of a topic's events."""
    places = ([getattr(record, name) for record in records] for name in ("partition", "offset", "timestamp"))
    partitions, offsets, timestamps = (np.array(place, np.int64) for place in places)
    return decision_ids(plan.pipeline, plan.events.topic, partitions, offsets, timestamps)


def _keep(found: Recorded, wanted: Collection[str], value: bytes) -> None:
    """Keep a decision that is wanted; not what people made of it later, nor what is no decision."""
    id = value[len(BEGIN) : value.find(b'"', len(BEGIN))].decode(errors="replace") if value.startswith(BEGIN) else ""
    if id not in wanted or id in found.said:
        return
    decision = _json(value)
    if isinstance(decision, dict) and "revision" not in decision and tells(decision) and is_of(found.plan, decision):
        found.said[id] = kept(found.plan, decision)


class InRows:
    """Takes the field out of rows before they are decided, as a contract may refuse it, and keeps what was answered.

    Rows are those of one partition, decided in their order: row n has offset n.
    """

    def __init__(self, plan: Plan, recorded: Recorded) -> None:
        self._plan, self.recorded = plan, recorded
        self._rows = 0

    def take(self, rows: Sequence[bytes]) -> list[bytes]:
        """The rows without the field. What these were answered is known from now on, and of those before no more."""
        bare, answers = _without(self._plan, rows)
        offsets = np.arange(self._rows, self._rows + len(rows), dtype=np.int64)
        zeros = np.zeros(len(rows), np.int64)
        ids = decision_ids(self._plan.pipeline, self._plan.events.topic, zeros, offsets, zeros)
        self.recorded.said = {id: one for id, one in zip(ids, answers, strict=True) if one is not None}
        self._rows += len(rows)
        return bare


async def in_rows(plan: Plan, source: str, of: str) -> InRows | None:
    """What the rows of a file tell of answers; ``None`` where no language model decides. It reads all of the file."""
    if not plan.of_answers:
        return None
    recorded = Recorded(plan, of=of)
    async for chunk in chunks(source):
        _, answers = _without(plan, chunk.values)
        recorded.events += len(answers)
        recorded.told += sum(answer is not None for answer in answers)
    return InRows(plan, recorded)


def _without(plan: Plan, rows: Sequence[bytes]) -> tuple[list[bytes], list[Mapping[str, Any] | None]]:
    """Rows without the field, and what stands there: as a decision has it, an object or its JSON as text."""
    name = None if plan.drift is None else plan.drift.answers
    if name is None:
        return list(rows), [None] * len(rows)
    bare, answers = list[bytes](), list[Mapping[str, Any] | None]()
    for row in rows:
        one = taken(row, name, keep=name in plan.contract.columns)
        bare.append(one.row)
        value = _object(one.value)
        answers.append(kept(plan, value) if tells(value) else None)
    return bare, answers


def _object(value: Any) -> Any:
    return _json(value) if isinstance(value, str) else value


def _json(raw: bytes | str) -> Any:
    """What JSON says; ``None`` where it is none, or nested too deeply."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
