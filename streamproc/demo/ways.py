"""Part of the events by HTTP: which of them, what becomes of them there, and what both ways came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

from streamproc.core.plan import Plan
from streamproc.core.records import DUPLICATE
from streamproc.core.repartition import at_path, key_text
from streamproc.demo.events import Events
from streamproc.demo.quantiles import quantiles

EVERY: Final = 10
"""One of so many events goes by HTTP; where features remember, those of one of so many keys."""
QUANTILES: Final = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Ways:
    """The numbers of the events that go ``by_http``, in order; the others go by Kafka.

    ``in_turn``: one of a key is sent when the one before it was answered. ``alike``: of events that share their id, the
    number of the first with it, where the pipeline knows ids. All of them are answered as one was. ``damaged``: those
    by HTTP that the contract refuses: no others may be refused at the door.
    """

    by_http: tuple[int, ...]
    in_turn: bool
    alike: Mapping[int, int]
    damaged: frozenset[int] = frozenset()


def ways_of(plan: Plan, events: Events) -> Ways:
    """Which of the events go by HTTP, the same ones each time.

    Features with memory want the events of a key in their order, so all events of a key go the same way there. What
    has no bytes HTTP cannot say.
    """
    in_turn = plan.remembers
    chosen = tuple(
        number
        for number, (key, value) in enumerate(zip(events.keys, events.values, strict=True))
        if value and (crc32(key) if in_turn else number) % EVERY == 0
    )
    damaged = (number for number in chosen if not isinstance(plan.contract.check(events.values[number]), dict))
    return Ways(chosen, in_turn, _alike(plan, events), frozenset(damaged))


def _alike(plan: Plan, events: Events) -> dict[int, int]:
    path = next((field.path for field in plan.contract.fields if field.name == plan.events.id), None)
    if path is None or plan.events.dedupe is None:
        return {}
    first, found = dict[bytes, int](), dict[int, int]()
    for number, value in enumerate(events.values):
        event = plan.contract.check(value)
        own = key_text(at_path(event, path)) if isinstance(event, dict) else None
        if own is not None:
            found[number] = first.setdefault(own, number)
    shared = Counter(found.values())
    return {number: one for number, one in found.items() if shared[one] > 1}


@dataclass(slots=True)
class Asked:
    """What callers were answered, by the numbers of their events."""

    in_time: set[int] = field(default_factory=set)
    """Answered with the decision: 200."""
    late: set[int] = field(default_factory=set)
    """Answered at the deadline, that it is not there yet: 202."""
    late_answered: set[int] = field(default_factory=set)
    """Of the late ones those that were answered with the decision when they were asked for again."""
    refused: set[int] = field(default_factory=set)
    """The door refused them: 422. They are on no topic."""
    dead: set[int] = field(default_factory=set)
    """The pipeline refused them, and the door said so: 422."""
    unanswered: set[int] = field(default_factory=set)
    """Given up."""
    again: Counter[int] = field(default_factory=Counter)
    """How often each was sent again."""
    seconds: list[float] = field(default_factory=list)
    """From when an event was due until its first answer, 200 or 202, was read."""


@dataclass(slots=True)
class Both:
    """Both ways beside each other, for the tally."""

    ways: Ways
    asked: Asked = field(default_factory=Asked)
    chosen: frozenset[int] = field(init=False)
    settled: set[int] = field(default_factory=set)
    """The ids that events share, by the first of these, of which one was decided or is a dead letter."""
    repeats: int = 0
    """Duplicates of events by HTTP that the pipeline found."""
    written: int | None = None
    """How many records the events topic has, once all was sent: what is doubled may be the last of them."""

    def __post_init__(self) -> None:
        self.chosen = frozenset(self.ways.by_http)

    def settle(self, number: int) -> None:
        """Take into account that an event was decided."""
        if (first := self.ways.alike.get(number)) is not None:
            self.settled.add(first)

    def is_repeat(self, number: int, reason: str) -> bool:
        """Take a dead letter into account; whether it only says that an event by HTTP came more than once."""
        repeat = number in self.chosen and reason == DUPLICATE
        self.repeats += repeat
        if reason != DUPLICATE:
            self.settle(number)
        return repeat

    def has_seen_all(self, decided: Mapping[int, int]) -> bool:
        """Whether all was sent, and something has come of every record that it made."""
        return self.written is not None and sum(decided.values()) + self.repeats >= self.written

    def elsewhere(self, decided: Mapping[int, int]) -> int:
        """How many events by HTTP need nothing on the topics: the door refused them, as the contract does, or answered
        as another one was that has their id."""
        asked, alike = self.asked, self.ways.alike
        answered = (number for number in alike if number in asked.in_time or number in asked.late)
        same = {number for number in answered if alike[number] in self.settled}
        return sum(number not in decided for number in (asked.refused & self.ways.damaged) | same)

    def as_json(self, decided: Mapping[int, int], expected: int, latencies: list[float]) -> dict[str, Any]:
        """The figures of both ways. ``decided`` is how often each event was, ``latencies`` are of those by Kafka."""
        asked, chosen = self.asked, self.chosen
        there = {number: count for number, count in decided.items() if number in chosen}
        kafka, elsewhere = len(decided) - len(there), self.elsewhere(decided)
        return {
            "kafka": {
                "events": expected - len(chosen),
                "settled": kafka,
                "missing": expected - len(chosen) - kafka,
                "duplicates": sum(decided.values()) - sum(there.values()) - kafka,
                "latency_ms": quantiles(latencies, *QUANTILES),
            },
            "http": {
                "events": len(chosen),
                "settled": len(there) + elsewhere,
                "in_time": len(asked.in_time),
                "late": len(asked.late),
                "late_answered": len(asked.late_answered),
                "refused": len(asked.refused) + len(asked.dead),
                "unanswered": len(asked.unanswered),
                "sent_again": asked.again.total(),
                "repeats_found": self.repeats,
                "missing": len(chosen) - len(there) - elsewhere,
                "duplicates": sum(there.values()) - len(there),
                "latency_ms": quantiles(asked.seconds, *QUANTILES),
            },
        }
