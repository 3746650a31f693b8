"""Stage 2, dedupe: an event whose id was seen before in its lane is a dead letter that names the first decision.

Time is the record timestamp, but no more than an hour after now, or the lane's clock where that is further: a record
that is far in the future must not make all the others old. The clock is the greatest time so far, in the order of
offsets. What was seen counts while its time is not more than ``dedupe`` behind the clock; so an event that is itself
later than that is decided, and not remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from hashlib import blake2b
from typing import Final, TypeAlias

import numpy as np
import polars as pl

from streamproc.core.contract import json_path
from streamproc.core.decide.events import decision_ids
from streamproc.core.decide.frame import Context, Frame, Numbers, Stage
from streamproc.core.dedupe.chunk import DIGEST_BYTES, Chunk
from streamproc.core.dedupe.memory import TABLE, Memory
from streamproc.core.plan import Plan
from streamproc.core.processor import Answer, Ask
from streamproc.core.records import DUPLICATE, DeadLetter
from streamproc.core.sensitive import Masker

STAGE: Final = "dedupe"
SKEW: Final = timedelta(hours=1)
"""A record's time counts as at most so much after now: by default brokers (Kafka 4) let it be no more."""
MILLISECOND: Final = timedelta(milliseconds=1)

Digests: TypeAlias = Callable[[Sequence[bytes]], bytes]


def dedupe_stage(plan: Plan, masker: Masker | None = None) -> Stage:
    """Refuses events that repeat an id. Comes after the contract, and adds no column.

    Without the lanes' states nothing is remembered, and nothing is a duplicate.
    """
    events = plan.events
    assert events.id is not None and events.dedupe is not None
    name, span = events.id, events.dedupe // MILLISECOND
    [path] = [json_path(field.path) for field in plan.contract.fields if field.name == name]
    digests, memories = _digests(plan, masker), dict[int, Memory]()

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        if not context.states:
            return
        latest = int(context.now.timestamp() * 1000) + SKEW // MILLISECOND
        seen = _Seen(frame, frame.columns[name], digests, latest)
        rows, firsts = list[int](), list[tuple[int, int]]()
        begin = 0
        for lane, end in enumerate(frame.records.ends.tolist()):
            if end > begin:
                memory = memories.setdefault(int(frame.records.partitions[begin]), Memory())
                memory.begin(context.states[lane], int(frame.records.offsets[begin]))
                chunk, numbers, clocks, clock = seen.of_lane(begin, end, memory.meta.clock)
                repeats = memory.take(chunk, clocks, span)
                rows += numbers[list(repeats)].tolist()
                firsts += repeats.values()
                changes = memory.end(clock, int(frame.records.offsets[end - 1]) + 1, clock - span)
                frame.change(lane, TABLE, changes)
            begin = end
        if rows:
            _refuse(plan, frame, path, rows, firsts)
        return
        yield []

    return Stage(STAGE, frozenset({name}), (), run)


class _Seen:
    """The events of a frame that have an id: of each its row, and the digest of its id."""

    def __init__(self, frame: Frame, ids: pl.Series, digests: Digests, latest: int) -> None:
        self._records = frame.records
        self._named = np.flatnonzero(ids.is_not_null().to_numpy())
        self._numbers = frame.rows[self._named]
        self._latest = latest
        self._digests = digests(_texts(ids.drop_nulls()))

    def of_lane(self, begin: int, end: int, clock: int) -> tuple[Chunk, Numbers, Numbers, int]:
        """What one lane saw in records ``begin`` to ``end``, its rows, the clock at each, and after all of them."""
        times = np.minimum(self._records.timestamps[begin:end], max(self._latest, clock))
        clocks = np.maximum(np.maximum.accumulate(times), clock)
        first, last = np.searchsorted(self._numbers, [begin, end]).tolist()
        own = self._numbers[first:last]
        digests = self._digests[DIGEST_BYTES * first : DIGEST_BYTES * last]
        seen = Chunk(digests, self._records.offsets[own], times[own - begin], self._records.timestamps[own])
        return seen, self._named[first:last], clocks[own - begin], int(clocks[-1])


def _digests(plan: Plan, masker: Masker | None) -> Digests:
    """Digests of ids, for this pipeline, topic and field alone. Those of sensitive ones need the key."""
    events = plan.events
    whose = blake2b(f"{plan.pipeline}\0{events.topic}\0{events.id}".encode(), digest_size=blake2b.PERSON_SIZE).digest()
    key = masker.key if masker is not None and events.id in events.sensitive else b""
    start = blake2b(digest_size=DIGEST_BYTES, person=whose, key=key).copy

    def digests(ids: Sequence[bytes]) -> bytes:
        made = list[bytes]()
        for one in ids:
            digest = start()
            digest.update(one)
            made.append(digest.digest())
        return b"".join(made)

    return digests


def _texts(ids: pl.Series) -> list[bytes]:
    if ids.dtype.is_float():
        return [repr(one).encode() for one in ids.to_list()]  # Python's way to write it is for ever
    return ids.cast(pl.String).cast(pl.Binary).to_list()


def _refuse(plan: Plan, frame: Frame, path: str, rows: list[int], firsts: Sequence[tuple[int, int]]) -> None:
    places = np.array(firsts, np.int64)
    lanes = frame.records.partitions[frame.rows[rows]]
    ids = decision_ids(plan.pipeline, plan.events.topic, lanes, places[:, 0], places[:, 1])
    frame.refuse(
        {
            row: DeadLetter(STAGE, DUPLICATE, path, f"the event at offset {offset} has the same id", first)
            for row, (offset, _), first in zip(rows, firsts, ids, strict=True)
        }
    )
