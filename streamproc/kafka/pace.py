"""When the next work should begin: neither sooner than it pays, nor later than the transaction before it is over."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

NEWEST = 0.2
"""What the newest time weighs in a running mean."""
LEAP, SHORT = 4.0, 0.1
"""A time counts with at most so many times the mean, or so many seconds: one that waited for a broker that was away
says nothing of those to come."""
MARGIN = 0.002
"""Seconds to be finished early: a transaction that has to wait costs more than an event that has to."""
APART, MOST_APART = 1.5, 0.03
"""From the beginning of one work of an agent to that of the next are so many times what both it and its transaction
take, and no more than so many seconds."""


@dataclass(slots=True)
class Mean:
    """The running mean of what something takes, in seconds.

    >>> mean = Mean()
    >>> for seconds in (0.02, 0.03, 600.0):
    ...     mean.took(seconds)
    >>> round(mean.seconds, 4)
    0.0376
    """

    seconds: float = 0.0
    _known: bool = field(default=False, init=False)

    def took(self, seconds: float) -> None:
        """It took so long this time."""
        bounded = min(seconds, max(LEAP * self.seconds, SHORT))
        self.seconds += (NEWEST if self._known else 1.0) * (bounded - self.seconds)
        self._known = True


@dataclass(slots=True)
class Pace:
    """How long a transaction and each agent's works take, in seconds; times are monotonic seconds.

    A work that begins as soon as it can has only the lanes that have something by then. Lanes that come meanwhile make
    another one, which costs as much again; and while a transaction is under way, both wait for its end. So a work
    begins as late as it may to be finished by then, and leaves the processors some time of their own.

    >>> pace = Pace()
    >>> pace.transaction.took(0.030)
    >>> pace.works["decide"].took(0.010)
    >>> pace.begins(5.0)
    >>> round(pace.wait("decide", 5.0), 3), pace.wait("decide", 5.02)
    (0.018, 0.0)
    >>> pace.ends(5.02)
    >>> pace.starts("decide", 6.0)
    >>> round(pace.wait("decide", 6.0), 3), round(pace.wait("decide", 6.0, patience=0.1), 3), pace.wait("drift", 6.0)
    (0.03, 0.1, 0.0)
    """

    transaction: Mean = field(default_factory=Mean)
    works: dict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    since: float | None = None
    """When the transaction under way began."""
    started: dict[str, float] = field(default_factory=dict)
    """When the last work of an agent began."""

    def begins(self, now: float) -> None:
        """A transaction begins."""
        self.since = now

    def ends(self, now: float) -> None:
        """It is over."""
        if self.since is not None:
            self.transaction.took(now - self.since)
        self.since = None

    def starts(self, agent: str, now: float) -> None:
        """A work of the agent begins."""
        self.started[agent] = now

    def worked(self, agent: str, seconds: float) -> None:
        """A work was computed in so many seconds."""
        self.works[agent].took(seconds)

    def wait(self, agent: str, now: float, *, patience: float = 0.0, much: bool = False) -> float:
        """How many seconds a work of the agent should still wait, which may put off its works by ``patience`` seconds.

        ``much``: whether so much is there that it may be as large as works become.
        """
        due = now if much else self.due(agent, patience)
        if self.since is not None:
            due = max(due, self.since + self.transaction.seconds - self.works[agent].seconds - MARGIN)
        return max(due - now, 0.0)

    def due(self, agent: str, patience: float = 0.0) -> float:
        """When the agent's next work may begin at the soonest, where there is little to do."""
        if agent not in self.started:
            return 0.0
        apart = min(APART * (self.works[agent].seconds + self.transaction.seconds), MOST_APART)
        return self.started[agent] + max(apart, patience)
