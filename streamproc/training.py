"""A history of events through the stages before the model: features as they were when each event was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Final

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide import TABLES
from streamproc.core.decide.effects import dead_letters
from streamproc.core.decide.encode import event_key, hashes
from streamproc.core.decide.events import contract_stage, decision_ids
from streamproc.core.decide.frame import Context, Frame, LanesRecords
from streamproc.core.decide.model import MODEL
from streamproc.core.decide.processor import DecideProcessor
from streamproc.core.outcomes.joining import text
from streamproc.core.outcomes.labels import OUTCOME, OUTCOME_TIME, ROW
from streamproc.core.partitioner import partitions
from streamproc.core.plan import EVENT_TIME, Plan
from streamproc.core.processor import NOTHING_SEEN, Batch, Output, run
from streamproc.core.repartition import at_path, keys_by
from streamproc.errors import UserError
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import Pipeline
from streamproc.rows import field_of, key_of

KEY: Final = "key"
OWN: Final = (ROW, KEY, EVENT_TIME, OUTCOME, OUTCOME_TIME)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Some events of a history with their features, one per row of ``columns``, in the history's order.

    ``ids`` are those of the decisions that a run over the same rows makes, ``keys`` as decisions show them.
    """

    columns: pl.DataFrame
    ids: list[str]
    keys: list[str | None]
    letters: Output


class History:
    """Takes the events of a history in the order in which they arrived, so many lanes as its topic had partitions.

    Each counts as written when it happened: a file does not say when it arrived, and what has to forget goes by that.
    ``key`` names the field that keyed the records, if it is not the one that the pipeline names. Where this one brings
    events to lanes by another field, so it is here. ``fields`` adds all
    fields of the contract to what is computed and to what decisions record, but for the one that is the ``outcome``.
    ``now`` tells what is in the future.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        now: datetime,
        *,
        lanes: int = 1,
        key: str | None = None,
        fields: bool = False,
        outcome: str | None = None,
    ) -> None:
        self._processor, self._answer, self._now = pipeline.processor, pipeline.answers.now, now
        self._plan, self._lanes, self._key = pipeline.plan, lanes, key or pipeline.plan.events.key
        self._offline = Offline(self._processor, self._answer, tables=TABLES, now=now)
        self._contract = contract_stage(self._plan)
        self._offsets, self._time = [0] * lanes, 0
        self.rows = 0
        """How many have been taken, be they events or none."""
        self.columns = [name for name in columns_of(self._processor, fields=fields) if name != outcome]
        self.reasons = Counter[str]()
        """Dead letters by their reasons."""
        _check_names(self._plan, self.columns)

    def take(self, values: Sequence[bytes]) -> Prepared:
        """The next rows."""
        chosen, batches = self._batches(values)
        frame = self._offline.frame(self._processor.prepare, batches)
        letters, _ = dead_letters(self._plan, frame, self._processor.masker)
        self.reasons.update({reason: n for (name, reason), n in frame.counts.items() if name == "dead_letters"})
        rows = chosen[frame.rows] + self.rows
        order = np.argsort(rows)
        columns = self._shown(frame, rows)[order]
        self.rows += len(values)
        lanes, offsets = frame.records.partitions[frame.rows][order], frame.records.offsets[frame.rows][order]
        no_times = np.zeros(len(order), np.int64)  # rows have none in `streamproc batch`
        ids = decision_ids(self._plan.pipeline, self._plan.events.topic, lanes, offsets, no_times)
        keys = columns[KEY].cast(pl.String).to_list()
        return Prepared(columns, ids, keys, letters)

    def _batches(self, values: Sequence[bytes]) -> tuple[NDArray[np.int64], list[Batch]]:
        """A batch for each lane that has rows, and the places of their rows among the values."""
        keys: list[bytes | None] = [None] * len(values)
        if self._key is not None:
            keys = [key_of(value, self._key) for value in values]
        if (field := self._plan.events.repartition_by) is not None:
            keys = keys_by(field, keys, values)
        lane_of, times = partitions(keys, self._lanes, 0), self._times(values)
        places = [np.flatnonzero(lane_of == lane) for lane in range(self._lanes)]
        batches = []
        for lane in np.unique(lane_of).tolist():
            own = places[lane].tolist()
            batch = batch_of(
                self._plan.events.topic,
                [values[place] for place in own],
                partition=lane,
                first_offset=self._offsets[lane],
                keys=[keys[place] for place in own],
                timestamp=times[own],
            )
            batches.append(batch)
            self._offsets[lane] += len(own)
        return np.concatenate(places), batches

    def _times(self, values: Sequence[bytes]) -> NDArray[np.int64]:
        """When each event happened, in milliseconds; of what is no event, when the one before it did."""
        times, events = np.zeros(len(values), np.int64), np.zeros(0, np.int64)
        if self._plan.events.time is not None:
            frame = Frame(LanesRecords.of([*batch_of(self._plan.events.topic, values).topics.values()]))
            run(self._contract.run(frame, Context(self._now, NOTHING_SEEN)), self._answer)
            events = frame.rows
            times[events] = frame.columns[EVENT_TIME].dt.epoch("ms").to_numpy()
        last = np.full(len(values), -1, np.int64)
        last[events] = events
        last = np.maximum.accumulate(last)
        times = np.where(last >= 0, times[last], self._time)
        self._time = int(times[-1]) if len(times) else self._time
        return times

    def _shown(self, frame: Frame, rows: NDArray[np.int64]) -> pl.DataFrame:
        plan, masker = self._plan, self._processor.masker
        hidden = plan.sensitive | plan.events.sensitive if masker is not None else frozenset[str]()
        columns = [frame.columns[name] for name in self.columns]
        return pl.DataFrame(
            [
                pl.Series(ROW, rows),
                event_key(plan, frame, masker).alias(KEY),
                frame.columns[EVENT_TIME],
                *(hashes(column, masker).alias(column.name) if column.name in hidden else column for column in columns),
            ]
        )


class LabelField:
    """Takes a field that says what came true out of the rows, since no event has it when it is decided.

    A field of the contract stays in the rows too. Raises UserError where anything that decides reads it.
    """

    def __init__(self, field: str, processor: DecideProcessor) -> None:
        events = processor.plan.events
        read = frozenset().union(*(stage.reads for stage in processor.stages), {events.key, events.time})
        if field in read:
            message = f"`{field}` is read to decide events, and it is known only after they are decided"
            raise UserError(message, "take it out of features, models and rules: it would let them see the future")
        self._field, self._keep = field, field in processor.plan.contract.columns
        self.there = 0
        """How many rows said what came true."""

    def take(self, rows: Sequence[bytes]) -> tuple[list[bytes], list[str | None]]:
        """The rows as events, and the outcome of each as text. Raises UserError for one that is no plain value."""
        taken = [self._split(row) for row in rows]
        self.there += sum(outcome is not None for _, outcome in taken)
        return [row for row, _ in taken], [outcome for _, outcome in taken]

    def _split(self, row: bytes) -> tuple[bytes, str | None]:
        try:
            event = orjson.loads(row)
        except orjson.JSONDecodeError:  # a dead letter
            return row, None
        if (value := field_of(event, self._field)) is None:
            return row, None
        if not isinstance(value, str | bool | int | float):
            raise UserError(f"`{self._field}` is no outcome in {row[:80].decode(errors='replace')}", "name another")
        if not self._keep:
            holder, name = event, self._field
            if name not in event:
                *path, name = name.split(".")
                holder = at_path(event, path)
            del holder[name]
            row = orjson.dumps(event)
        return row, text(value)


def columns_of(processor: DecideProcessor, *, fields: bool) -> list[str]:
    """The columns that a model may learn from: what stages compute, and what decisions record of the event."""
    plan, computed = processor.plan, list[str]()
    inputs = [name for model in (*plan.models, *plan.shadows) for name in model.inputs]
    known = dict.fromkeys(plan.contract.columns)
    for stage in takewhile(lambda stage: stage.name != MODEL, processor.stages):
        computed += (name for name in stage.writes if name not in known and name != EVENT_TIME)
    there = {*known, *computed}
    recorded = [name for name in (*inputs, *plan.recorded) if name in there]
    return list(dict.fromkeys([*computed, *recorded, *(known if fields else ())]))


def _check_names(plan: Plan, columns: Sequence[str]) -> None:
    own = set(OWN) - {EVENT_TIME} - ({KEY} if plan.events.key == KEY else set())
    for name in own.intersection(columns):
        raise UserError(f"`{name}` is a column of the pipeline, and one that stands beside them", "rename it there")
