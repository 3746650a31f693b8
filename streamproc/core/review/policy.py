"""What a pipeline file says of review."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from streamproc.core.expressions import Expression

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """So much in each period, of all lanes together."""

    count: int
    period: timedelta

    def of_lane(self, lane: int, lanes: int) -> int:
        """What one of so many lanes may have: the parts of all lanes add up to ``count``.

        >>> [Allowance(10, timedelta(hours=1)).of_lane(lane, 4) for lane in range(4)]
        [3, 3, 2, 2]
        """
        return (self.count + lanes - 1 - lane) // lanes


@dataclass(frozen=True, slots=True)
class ExplorePlan:
    """Of the events that the rules decide ``instead_of``, the share (in millionths) is decided otherwise, by chance."""

    decide: str
    instead_of: str
    share: int
    budget: Allowance


@dataclass(frozen=True, slots=True)
class ReviewPlan:
    """How cases of review live. Shares are in millionths; ``keys`` are ed25519 public keys of 32 bytes, by name.

    A case is open for ``ttl``, then ``on_expiry`` is decided. A closed one is remembered for ``keep``. Of ``capacity``
    people can answer; what is more than they can within ``ttl`` is shed. ``choices`` are the decisions that a person
    may make.
    """

    ttl: timedelta
    on_expiry: str
    choices: frozenset[str]
    priority: Expression | None = None
    audit: int | None = None
    second_opinion: int | None = None
    explore: ExplorePlan | None = None
    capacity: Allowance | None = None
    corrections: bool = False
    lease: timedelta = timedelta(minutes=15)
    keep: timedelta = timedelta(days=30)
    keys: Mapping[str, bytes] = field(default_factory=dict)
    require_signature: bool = False
    hidden: frozenset[str] = frozenset()
    """Recorded columns that show what automation thinks, which blind items leave out."""

    def most_open(self, lane: int, lanes: int) -> int | None:
        """How many cases of a lane people can answer in time; ``None`` where nobody said how many they can."""
        if self.capacity is None:
            return None
        within = Allowance(int(self.capacity.count * (self.ttl / self.capacity.period)), self.ttl)
        return max(1, within.of_lane(lane, lanes))
