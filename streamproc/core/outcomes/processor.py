"""The outcome processor: decisions, steps of review and outcomes in, measures out. Its state is the lane's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import orjson

from streamproc.core.outcomes import early, measures, reviews
from streamproc.core.outcomes.book import TABLE, Book, chained, standing
from streamproc.core.outcomes.costs import Costs
from streamproc.core.outcomes.counting import Counter
from streamproc.core.outcomes.decision import decoder, have_good_ids
from streamproc.core.outcomes.joining import Joiner
from streamproc.core.outcomes.measures import Counts, add
from streamproc.core.outcomes.outcome import loads
from streamproc.core.outcomes.policy import OutcomesPlan
from streamproc.core.processor import Batch, Effects, Output, Records, Seen, State, Steps
from streamproc.core.records import TYPED, VERSIONS, Topics

EVERY: Final = timedelta(seconds=5)
"""A window's record is written at most so often."""
AT_ONCE: Final = 100
"""So many records a tick."""
Read = TypeVar("Read")


class OutcomeProcessor:
    """Keeps the measures of a pipeline's lanes."""

    def __init__(self, pipeline: str, plan: OutcomesPlan) -> None:
        self._pipeline, self._topics, self._plan = pipeline, Topics.of(pipeline), plan
        self._seconds = max(1, round(plan.window.total_seconds()))
        self._retain = round(plan.retain.total_seconds() * 1000)
        costs = Costs(plan)
        self._counter, self._joiner = Counter(plan, costs), Joiner(plan, costs)
        self._decode = decoder(plan.decoded)
        self._books: dict[int, Book] = {}

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        """What a batch changes is counted; the records of its windows follow with the next tick."""
        book, counts = self._books.setdefault(batch.partition, Book(self._seconds)), Counts()
        spans = [(topic, int(rows.offsets[0]), int(rows.offsets[-1])) for topic, rows in sorted(batch.topics.items())]
        book.begin(state, batch.partition, chained([now, *spans]), now.timestamp())
        topics, by_topic = self._topics, batch.topics
        if (records := by_topic.get(topics.decisions)) is not None:
            self._decided(book, records, counts)
        if (records := by_topic.get(topics.review_events)) is not None:
            steps, _ = _read(records, reviews.decode, counts)
            reviews.count(book, steps)
            add(counts, {"review": len(steps)})
        if (records := by_topic.get(topics.outcomes_by_lane)) is not None:
            outcomes, rows = _read(records, loads, counts)
            self._joiner.come(book, list(zip(outcomes, records.timestamps[rows].tolist(), strict=True)), counts)
        self._expire(book, counts)
        changes = book.end()
        wake_at = now + EVERY if book.meta.dirty else None
        told = {_metric(name): count for name, count in counts.items()}
        return Effects(state={TABLE: changes}, wake_at=wake_at, counts=told)
        yield []

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """Write the records of the windows whose counts have changed."""
        stands = standing(state)
        if stands is None or not stands.dirty:
            return Effects()
        book = self._books.setdefault(stands.lane, Book(self._seconds))
        book.begin(state, stands.lane, chained([now, "tick"]), now.timestamp())
        dirty = sorted(book.meta.dirty)
        written = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        keys, values = list[bytes | None](), list[bytes | None]()
        for start in dirty[:AT_ONCE]:
            window = book.opened(start).window
            told = measures.record(self._pipeline, stands.lane, window, written, VERSIONS["measures"])
            keys.append(b"%d/%d" % (stands.lane, start))
            values.append(orjson.dumps(told))
        book.meta.dirty = dirty[AT_ONCE:]
        output = Output(self._topics.metrics, keys, values, [TYPED["measures"]] * len(keys))
        wake_at = now if book.meta.dirty else None
        return Effects([output], {TABLE: book.end()}, wake_at, {("measured", "written"): len(keys)})
        yield []

    def _decided(self, book: Book, records: Records, counts: Counts) -> None:
        slims, rows = _read(records, self._decode, counts)
        stamps = records.timestamps[rows]
        if not have_good_ids(slims):
            sound = [row for row, one in enumerate(slims) if have_good_ids([one])]
            add(counts, {"unreadable": len(slims) - len(sound)})
            slims, stamps = [slims[row] for row in sound], stamps[sound]
        first = [row for row, one in enumerate(slims) if not one.revision]
        if len(first) == len(slims):
            revisions = []
        else:
            revisions = [one for one in slims if one.revision]
            slims, stamps = [slims[row] for row in first], stamps[first]
        if slims:
            kept = self._counter.count(book, slims, stamps, counts)
            if len(kept):
                book.append(kept)
                self._joiner.arrived(book, kept, counts)
        if revisions:
            self._joiner.revise(book, revisions, counts)

    def _expire(self, book: Book, counts: Counts) -> None:
        """Let go of what is older than ``retain``, by the time of decisions, and of what is too much."""
        before = book.meta.newest - self._retain
        left = early.expire(book, early.ID, before)
        left += early.expire(book, early.KEY, max(before, book.meta.newest - early.WAIT))
        add(counts, {"early_left": left})
        while (oldest := book.oldest()) is not None and int(oldest.stamps.max()) < before:
            add(counts, {"retained": book.drop_oldest()})
        while book.meta.count > self._plan.most:
            add(counts, {"crowded_out": book.drop_oldest()})
        book.close_windows((before // 1000 // self._seconds - 1) * self._seconds)


def _metric(name: str) -> tuple[str, str]:
    """The metric and the label of a count; those of no other metric are of records."""
    metric, named, label = name.partition(":")
    return (metric, label) if named else ("measured", name)


def _read(records: Records, decode: Callable[[bytes], Read], counts: Counts) -> tuple[list[Read], Any]:
    """What can be read of records, and the rows that it stands in; the rest is counted."""
    try:
        return list(map(decode, records.values)), slice(None)  # type: ignore[arg-type]
    except (ValueError, TypeError, RecursionError):
        pass
    found, rows = list[Read](), list[int]()
    for row, value in enumerate(records.values):
        try:
            found.append(decode(value or b""))
            rows.append(row)
        except (ValueError, RecursionError):  # not one of ours, or of a later version: it must not stop the lane
            add(counts, {"unreadable": 1})
    return found, rows
