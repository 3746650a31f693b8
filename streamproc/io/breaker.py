"""A circuit breaker: a model that keeps failing is not asked for a while, so that nobody waits for it in vain."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

BreakerState: TypeAlias = Literal["closed", "half-open", "open"]
Permit: TypeAlias = int
"""For one call, as long as it is the newest; while the breaker is closed, calls share one."""
STATES: tuple[BreakerState, ...] = ("closed", "half-open", "open")


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """It opens when of the last ``calls`` at least the share ``failures`` failed, and asks again after ``wait`` s."""

    failures: float = 0.5
    calls: int = 10
    wait: float = 5.0


class Breaker:
    """Closed: every call may be made. Open: none. Half-open: one, whose end decides which of the two comes next.

    Times are monotonic seconds, given by whoever asks. Each call that is allowed has a permit, and is told of once:
    by ``ended`` or by ``withdrawn``. Permits from before it opened, tried or closed are worth nothing any more.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._failed = deque[bool](maxlen=policy.calls)
        self._opened: float | None = None
        self._probing = False
        self._valid: Permit = 0

    @property
    def state(self) -> BreakerState:
        if self._opened is None:
            return "closed"
        return "half-open" if self._probing else "open"

    def allows(self, now: float) -> Permit | None:
        """The permit for a call now, or ``None``. Permits are numbers, and the first one is 0."""
        if self._opened is None:
            return self._valid
        if self._probing or now - self._opened < self._policy.wait:
            return None
        self._probing = True
        self._valid += 1
        return self._valid

    def withdrawn(self, permit: Permit) -> None:
        """A call that was allowed was not made after all, or nobody knows how it ended: nothing is known by it."""
        if permit == self._valid and self._probing:
            self._probing = False
            self._valid += 1

    def ended(self, permit: Permit, failed: bool | None, now: float) -> None:
        """How a call ended; ``None`` where nobody can be blamed for it."""
        if failed is None:
            self.withdrawn(permit)
            return
        if permit != self._valid:
            return
        if self._probing:
            self._probing = False
            self._turn(now if failed else None)
            return
        self._failed.append(failed)
        full = len(self._failed) == self._policy.calls
        if full and sum(self._failed) >= self._policy.failures * self._policy.calls:
            self._turn(now)

    def _turn(self, opened: float | None) -> None:
        """Open it at a time, or close it; what is under way has begun before that."""
        self._opened = opened
        self._failed.clear()
        self._valid += 1
