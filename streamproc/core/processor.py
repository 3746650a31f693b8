"""The one shape of behaviour: a processor is a generator without I/O that a lane runs on each batch.

It yields the asks that it cannot answer itself, is sent one answer for each, and returns its effects::

    answers = yield [Score("default", columns, ids)]
    return Effects(records=(...,), state={"counts": {b"k": b"1"}})
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]
"""Names and values; Kafka lets a value be null."""

Changes: TypeAlias = Mapping[str, Mapping[bytes, bytes | None]]
Steps: TypeAlias = "Generator[list[Ask], list[Answer], Effects]"
LanesSteps: TypeAlias = "Generator[list[Ask], list[Answer], list[Effects]]"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one topic partition in offset order; every field has one entry per record.

    ``offsets`` and ``timestamps`` (milliseconds since the epoch) are int64 arrays of shape (n,).
    """

    topic: str
    partition: int
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)

    def since(self, offset: int) -> Records:
        """The records at ``offset`` and after it."""
        first = int(np.searchsorted(self.offsets, offset))
        if first == 0:
            return self
        rest = slice(first, None)
        columns = (self.keys[rest], self.values[rest], self.headers[rest], self.offsets[rest], self.timestamps[rest])
        return Records(self.topic, self.partition, *columns)

    def then(self, later: Records) -> Records:
        """These records, and later ones of the same partition."""
        return Records(
            self.topic,
            self.partition,
            [*self.keys, *later.keys],
            [*self.values, *later.values],
            [*self.headers, *later.headers],
            np.concatenate([self.offsets, later.offsets]),
            np.concatenate([self.timestamps, later.timestamps]),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What one lane is given at once: records of one partition number, by topic."""

    partition: int
    topics: Mapping[str, Records]

    def __len__(self) -> int:
        return sum(map(len, self.topics.values()))


class State(Protocol):
    """The lane's own tables, as they are after every earlier batch of this lane."""

    @property
    def home(self) -> object:
        """The same object from batch to batch, as long as the worker has the lane: what is held in memory beside the
        tables goes with it, where it is kept by weak reference."""
        ...

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """One value per key, ``None`` where the table has none."""
        ...

    def count(self, table: str) -> int:
        """How many keys a table has."""
        ...

    def items(self, table: str) -> Iterable[tuple[bytes, bytes]]:
        """Every entry of a table, in no particular order. Takes milliseconds where there are many."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """An immutable snapshot of what all lanes follow (drift state, control, tables), and the offsets it stands at.

    ``views`` holds one read-only value per followed thing; ``offsets`` maps ``topic-partition`` to the next offset.
    """

    views: Mapping[str, Any] = field(default_factory=dict)
    offsets: Mapping[str, int] = field(default_factory=dict)


NOTHING_SEEN = Seen()


@dataclass(frozen=True, slots=True)
class Lookup:
    """Asks a source for one row per key. With ``fields`` a row is a tuple of their values, ``None`` for one without.

    ``lanes``, int64 of shape (n,), are the partition numbers that the keys came with. ``times``, int64 of shape (n,),
    are event times in µs since the epoch: what answers from a history gives the row as it was then, all else the
    newest.
    """

    source: str
    keys: Sequence[bytes]
    fields: tuple[str, ...] = ()
    lanes: NDArray[np.int64] | None = None
    times: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Asks a model for one score per row. ``columns`` are equally long arrays; ``ids`` are decision ids.

    An ask may be made again after a crash: what costs or reserves is keyed by the id.
    """

    model: str
    columns: Mapping[str, NDArray[Any]]
    ids: Sequence[str]


Ask: TypeAlias = Lookup | Score


@dataclass(frozen=True, slots=True)
class Answer:
    """One entry per row: a value in ``values``, or ``None`` there and the reason why not in ``reasons``.

    ``version`` names what answered (a model hash, a table offset); ``health`` is free text for people. ``versions``
    are those of the rows, where more than one answered. ``columns`` are what else was said, arrays of shape (rows,):
    float64 with NaN for nothing, or objects, texts with None for nothing.
    """

    values: Sequence[Any]
    reasons: Sequence[str | None]
    version: str = ""
    health: str = ""
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    versions: Sequence[str] | None = None

    @classmethod
    def nothing(cls, count: int, reason: str, version: str = "", health: str = "") -> Answer:
        """The answer that is none: ``count`` rows without a value, all for one reason."""
        return cls([None] * count, [reason] * count, version, health)


@dataclass(frozen=True, slots=True)
class Output:
    """Records for one topic, column by column.

    Without ``places`` each goes to the partition of its key, and one without a key to the lane's own number modulo the
    count. ``places``, int64 of shape (n,), are partition numbers, also modulo the count.
    """

    topic: str
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers]
    places: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.keys)
        places = count if self.places is None else len(self.places)
        if not count == len(self.values) == len(self.headers) == places:
            raise ValueError(f"the columns for {self.topic!r} differ in length")

    def __len__(self) -> int:
        return len(self.values)

    def part(self, begin: int, end: int) -> Output:
        """The records from ``begin`` up to ``end``; itself where that is all of them."""
        if begin == 0 and end == len(self):
            return self
        places = None if self.places is None else self.places[begin:end]
        return Output(self.topic, self.keys[begin:end], self.values[begin:end], self.headers[begin:end], places)


@dataclass(frozen=True, slots=True)
class Effects:
    """What a processor returns. All of it happens, with the batch's offsets, or none.

    ``counts`` are for the metrics of the shell: (name, label) to an increment.
    """

    records: Sequence[Output] = ()
    state: Changes = field(default_factory=dict)
    wake_at: datetime | None = None
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Processor(Protocol):
    """Behaviour of one agent. Neither method does I/O, reads a clock, draws random numbers or logs."""

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        """Effects of one batch. What data can cause is a value in them; an exception is a bug and ends the worker."""
        ...

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """Effects of time having passed: called at or after the ``wake_at`` that was returned last."""
        ...


@runtime_checkable
class LanesProcessor(Protocol):
    """A processor that takes the batches of several lanes at once, because a batch has a fixed cost."""

    def process_lanes(self, batches: Sequence[Batch], states: Sequence[State], seen: Seen, now: datetime) -> LanesSteps:
        """One ``Effects`` per batch: for each lane's records and state what ``process`` would give for it alone."""
        ...


def process_lanes(
    processor: Processor, batches: Sequence[Batch], states: Sequence[State], seen: Seen, now: datetime
) -> LanesSteps:
    """The effects of each lane's batch, worked out together where the processor can, and else side by side."""
    if isinstance(processor, LanesProcessor):
        return (yield from processor.process_lanes(batches, states, seen, now))
    pairs = zip(batches, states, strict=True)
    return (yield from together([processor.process(batch, state, seen, now) for batch, state in pairs]))


def together(
    generators: Sequence[Generator[list[Ask], list[Answer], Result]],
) -> Generator[list[Ask], list[Answer], list[Result]]:
    """Run generators side by side: what they ask at the same time is asked in one go. Their results, in their order."""
    results: dict[int, Result] = {}
    asking: dict[int, list[Ask]] = {}
    answers: dict[int, list[Answer]] = {}
    waiting = list(range(len(generators)))
    while waiting:
        for number in waiting:
            generator = generators[number]
            try:
                asking[number] = generator.send(answers[number]) if number in answers else next(generator)
            except StopIteration as stop:
                results[number] = stop.value
                asking.pop(number, None)
        waiting = list(asking)
        if waiting:
            given = iter((yield [ask for asks in asking.values() for ask in asks]))
            answers = {number: [next(given) for _ in asks] for number, asks in asking.items()}
    return [results[number] for number in range(len(generators))]


def run(steps: Generator[list[Ask], list[Answer], Result], answer: Any) -> Result:
    """Run a processor's generator to its end with a plain function from an ask to its answer."""
    try:
        asks = next(steps)
        while True:
            asks = steps.send([answer(ask) for ask in asks])
    except StopIteration as stop:
        result: Result = stop.value
        return result
