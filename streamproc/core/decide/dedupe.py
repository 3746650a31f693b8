"""Stage 2, dedupe: an event whose id was seen before in its lane is a dead letter that names the first decision.

Time is the record timestamp, but no more than an hour after now, or the lane's clock where that is further. An event
repeats another if it has its id and a time that is at most ``dedupe`` later. For how long ids are remembered the lane's
clock says, which only events that the contract takes move, and none by more than an hour: one that is ahead of its time
must not make the others forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from hashlib import blake2b
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl

from streamproc.core.contract import json_path
from streamproc.core.decide.events import decision_ids
from streamproc.core.decide.frame import Context, Frame, Numbers, Stage
from streamproc.core.dedupe.chunk import DIGEST_BYTES, Chunk
from streamproc.core.dedupe.clock import AHEAD, advance
from streamproc.core.dedupe.memory import TABLE, Memory
from streamproc.core.plan import Plan
from streamproc.core.processor import Answer, Ask
from streamproc.core.records import DUPLICATE, DeadLetter
from streamproc.core.sensitive import Masker

STAGE: Final = "dedupe"
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
    digests = _digests(plan, masker)
    memories = WeakKeyDictionary[object, Memory]()  # a lane that leaves takes its own with it

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        if not context.states:
            return
        latest = int(context.now.timestamp() * 1000) + AHEAD
        seen = _Seen(frame, frame.columns[name], digests, latest)
        rows, firsts = list[int](), list[tuple[int, int]]()
        begin = 0
        for lane, end in enumerate(frame.records.ends.tolist()):
            if end > begin:
                state = context.states[lane]
                if (memory := memories.get(state.home)) is None:
                    memory = memories[state.home] = Memory(span, events.max_ids)
                memory.begin(state, int(frame.records.offsets[begin]))
                chunk, numbers, clocks, clock = seen.of_lane(begin, end, memory.meta.clock)
                repeats = memory.take(chunk, clocks)
                rows += numbers[list(repeats)].tolist()
                firsts += repeats.values()
                frame.change(lane, TABLE, memory.end(clock, int(frame.records.offsets[end - 1]) + 1))
                frame.count("ids_left", events.topic, memory.left)
            begin = end
        if rows:
            _refuse(plan, frame, path, rows, firsts)
        return
        yield []

    return Stage(STAGE, frozenset({name}), (), run)


class _Seen:
    """The events of a frame that have an id: of each its row, and the digest of its id."""

    def __init__(self, frame: Frame, ids: pl.Series, digests: Digests, latest: int) -> None:
        self._records, self._rows, self._latest = frame.records, frame.rows, latest
        self._named = np.flatnonzero(ids.is_not_null().to_numpy())
        self._digests = digests(_texts(ids.drop_nulls()))

    def of_lane(self, begin: int, end: int, clock: int) -> tuple[Chunk, Numbers, Numbers, int]:
        """What one lane saw in records ``begin`` to ``end``, its rows, the clock at each, and after all of them."""
        taken = np.searchsorted(self._rows, [begin, end])
        stamps = self._records.timestamps[self._rows[slice(*taken)]]
        times = np.minimum(stamps, max(self._latest, clock))
        clocks = advance(times, clock)
        first, last = np.searchsorted(self._named, taken).tolist()
        named, digests = self._named[first:last], self._digests[DIGEST_BYTES * first : DIGEST_BYTES * last]
        own = named - taken[0]
        seen = Chunk(digests, self._records.offsets[self._rows[named]], times[own], stamps[own])
        return seen, named, clocks[own], int(clocks[-1]) if len(clocks) else clock


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
