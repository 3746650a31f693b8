"""Joining outcomes with the decisions topic, however late they come.

It is scanned twice: to see which decision an event's key means and which ones were revised, and to join. So only what
has an outcome or a revision is kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from operator import itemgetter
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import orjson

from streamproc.core.outcomes.book import TABLE, Book
from streamproc.core.outcomes.costs import Costs
from streamproc.core.outcomes.counting import Counter
from streamproc.core.outcomes.decision import Slim, decoder, id_bytes, readable
from streamproc.core.outcomes.joining import Joiner
from streamproc.core.outcomes.measures import Counts, Window
from streamproc.core.outcomes.outcome import Outcome, loads
from streamproc.core.outcomes.policy import OutcomesPlan
from streamproc.core.state import Tables
from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import Progress, reading
from streamproc.rows import chunks

DAY: Final = timedelta(days=1)
MOST: Final = 10_000_000
"""So many outcomes are held in memory at most."""
FOREVER: Final = timedelta(days=365_000)


def outcome_of(raw: bytes, line: str) -> Outcome:
    """The outcome of a row of a file; a numeric key is the text of it. Raises UserError, naming the line."""
    try:
        row = orjson.loads(raw)
        if isinstance(row, dict) and isinstance(row.get("key"), int | float) and not isinstance(row["key"], bool):
            row["key"] = str(row["key"])
        if isinstance(row, dict):
            row = {name: value for name, value in row.items() if value is not None}
        return loads(orjson.dumps(row))
    except ValueError as error:
        raise UserError(f"{line} is no outcome: {error}", "schemas/outcome.schema.json says what one is") from error


async def from_file(source: str) -> AsyncIterator[Outcome]:
    """The outcomes of a file: NDJSON, CSV or Parquet, or - for NDJSON on standard input."""
    number = 0
    async for chunk in chunks(source):
        for value in chunk.values:
            number += 1
            yield outcome_of(value, f"row {number:,} of {source}")


Numbered: TypeAlias = tuple[int, Outcome]
"""An outcome, and how many came before it."""


@dataclass(slots=True)
class Outcomes:
    """The last word on each decision or key. What is no outcome is counted and left out.

    ``look`` at all decisions before asking what came true ``of`` one: a key means the newest decision that has it.
    """

    by_id: dict[bytes, Numbered] = field(default_factory=dict)
    by_key: dict[str, Numbered] = field(default_factory=dict)
    unreadable: int = 0
    revised: set[bytes] = field(default_factory=set)
    _came: int = 0
    _newest: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Take one; it replaces an earlier one. Raises UserError where there are too many."""
        self._came += 1
        if outcome.id is not None:
            self.by_id[id_bytes(outcome.id)] = self._came, outcome
        elif outcome.key is not None:
            self.by_key[outcome.key] = self._came, outcome
        if len(self) > MOST:
            raise UserError(f"more than {MOST:,} outcomes", "join them in parts")

    def __len__(self) -> int:
        return len(self.by_id) + len(self.by_key)

    def look(self, values: Sequence[bytes], stamps: Sequence[int]) -> None:
        """See decision records, with their timestamps."""
        for value, stamp in zip(values, stamps, strict=True):
            if (slim := readable(_plain, value)) is None:
                continue
            if slim.revision:
                self.revised.add(id_bytes(slim.id))
            elif slim.key in self.by_key and stamp >= self._newest.get(slim.key, (stamp, b""))[0]:
                self._newest[slim.key] = stamp, id_bytes(slim.id)

    def of(self, decision: Slim) -> Outcome | None:
        """What came true of a decision, if it is known: the later of what was said of its id and of its key."""
        own = id_bytes(decision.id)
        found = [self.by_id[own]] if own in self.by_id else []
        if decision.key is not None and self._newest.get(decision.key, (0, b""))[1] == own:
            found.append(self.by_key[decision.key])
        return max(found, key=itemgetter(0))[1] if found else None


_plain: Final = decoder(())


async def from_topic(connection: Connection, topic: str, into: Outcomes, progress: Progress | None) -> None:
    """Take the outcomes of a topic."""
    async with reading(connection, topic) as reader:
        async for records in reader.scan(progress=progress):
            for record in records:
                try:
                    into.add(loads(record.value or b""))
                except ValueError:  # the intake has made a dead letter of it
                    into.unreadable += 1


@dataclass(slots=True)
class Join:
    """Decisions that are given in their order are counted by the day; those with an outcome come out as lines.

    The outcomes have looked at all of them.
    """

    plan: OutcomesPlan
    outcomes: Outcomes
    decisions: int = 0
    joined: int = 0
    _parts: Any = None

    def __post_init__(self) -> None:
        self.plan = replace(self.plan, retain=FOREVER, window=DAY)
        costs = Costs(self.plan)
        book = Book(round(DAY.total_seconds()), one_lane=False)
        book.begin(Tables([TABLE]), 0, b"")
        self._parts = Counter(self.plan, costs), Joiner(self.plan, costs), decoder(self.plan.decoded), book

    def give(self, values: Sequence[bytes], stamps: Sequence[int]) -> Iterator[bytes]:
        """Take decision records with their timestamps; a line of JSON for each record that has an outcome."""
        counter, joiner, decode, book = self._parts
        slims, rows = list[Slim](), list[int]()
        for row, value in enumerate(values):
            if (slim := readable(decode, value)) is not None:
                slims.append(slim)
                rows.append(row)
        said = [self.outcomes.of(slim) for slim in slims]
        counts = Counts()
        first = [at for at, slim in enumerate(slims) if not slim.revision]
        if first:
            self._first(counter, joiner, book, [(slims[at], stamps[rows[at]], said[at]) for at in first], counts)
        joiner.revise(book, [slim for slim in slims if slim.revision], counts)
        self.decisions += len(first)
        for row, outcome in zip(rows, said, strict=True):
            if outcome is not None:
                yield b'{"decision":' + values[row] + b',"outcome":' + msgspec.json.encode(outcome) + b"}\n"

    def _first(
        self,
        counter: Counter,
        joiner: Joiner,
        book: Book,
        rows: Sequence[tuple[Slim, int, Outcome | None]],
        counts: Counts,
    ) -> None:
        stamps = np.array([stamp for _, stamp, _ in rows], np.int64)
        kept = counter.count(book, [slim for slim, _, _ in rows], stamps, counts)
        by_id = {id_bytes(slim.id): (slim, outcome) for slim, _, outcome in rows}
        joined, wanted = list[tuple[Outcome, int]](), list[int]()
        for row in range(len(kept)):
            slim, outcome = by_id[kept.id(row)]
            if outcome is not None or kept.id(row) in self.outcomes.revised:
                wanted.append(row)
            if outcome is not None:
                joined.append((msgspec.structs.replace(outcome, id=slim.id, key=None), 0))
        if wanted:
            book.append(kept.only(wanted))
        joiner.come(book, joined, counts)
        self.joined += len(joined)

    def measured(self) -> list[Window]:
        """The counts, a window a day."""
        book = self._parts[3]
        return [book.opened(start).window for start in book.listed()]
