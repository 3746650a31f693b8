"""When a work should begin, so that it is finished just when the transaction before it is."""

from __future__ import annotations

from dataclasses import dataclass, field

NEWEST = 0.2
"""What the newest time weighs in the running mean."""
LEAP, SHORT = 4.0, 0.1
"""A transaction counts with at most so many times the mean, or so many seconds: one that waited for a broker that was
away says nothing of those to come."""
MARGIN = 0.002
"""Seconds to be finished early: a transaction that has to wait costs more than an event that has to."""


@dataclass(slots=True)
class Pace:
    """Running means of how long a transaction and each agent's works take, in seconds; times are monotonic seconds.

    A work that begins as soon as it can has only the lanes that have something by then, and waits; lanes that come
    meanwhile make another one, which is late by a whole transaction. One that begins as late as it can has them all.

    >>> pace = Pace()
    >>> pace.transaction, pace.works["decide"] = 0.030, 0.010
    >>> pace.begins(5.0)
    >>> round(pace.wait("decide", 5.0), 3), pace.wait("decide", 5.02)
    (0.018, 0.0)
    >>> pace.ends(5.04)
    >>> round(pace.transaction, 3), pace.wait("decide", 5.04)
    (0.032, 0.0)
    >>> pace.begins(6.0)
    >>> pace.ends(606.0)
    >>> round(pace.transaction, 3)
    0.051
    """

    transaction: float = 0.0
    works: dict[str, float] = field(default_factory=dict)
    since: float | None = None
    """When the transaction under way began."""

    def begins(self, now: float) -> None:
        """A transaction begins."""
        self.since = now

    def ends(self, now: float) -> None:
        """It is over."""
        if self.since is not None:
            seconds = min(now - self.since, max(LEAP * self.transaction, SHORT))
            self.transaction += NEWEST * (seconds - self.transaction)
        self.since = None

    def worked(self, agent: str, seconds: float) -> None:
        """A work was computed in so many seconds."""
        before = self.works.get(agent, seconds)
        self.works[agent] = before + NEWEST * (seconds - before)

    def wait(self, agent: str, now: float) -> float:
        """How many seconds a work of the agent should still wait: none where no transaction is under way."""
        if self.since is None:
            return 0.0
        return max(self.since + self.transaction - self.works.get(agent, 0.0) - MARGIN - now, 0.0)
