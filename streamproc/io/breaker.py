"""A circuit breaker: a model that keeps failing is not asked for a while, so that nobody waits for it in vain."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

BreakerState: TypeAlias = Literal["closed", "half-open", "open"]
STATES: tuple[BreakerState, ...] = ("closed", "half-open", "open")


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """It opens when of the last ``calls`` at least the share ``failures`` failed, and asks again after ``wait`` s."""

    failures: float = 0.5
    calls: int = 10
    wait: float = 5.0


class Breaker:
    """Closed: every call may be made. Open: none. Half-open: one, whose end decides which of the two comes next.

    Times are monotonic seconds, given by whoever asks.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._failed = deque[bool](maxlen=policy.calls)
        self._opened: float | None = None
        self._probing = False

    @property
    def state(self) -> BreakerState:
        if self._opened is None:
            return "closed"
        return "half-open" if self._probing else "open"

    def allows(self, now: float) -> bool:
        """Whether a call may be made now; one that is allowed must be told of by ``ended``."""
        if self._opened is None:
            return True
        if self._probing or now - self._opened < self._policy.wait:
            return False
        self._probing = True
        return True

    def withdrawn(self) -> None:
        """A call that was allowed was not made after all: nothing is known by it."""
        self._probing = False

    def ended(self, failed: bool, now: float) -> None:
        """How a call ended. Those that began before it opened change nothing any more."""
        if self._opened is not None and not self._probing:
            return
        if self._probing:
            self._probing = False
            self._opened = now if failed else None
            self._failed.clear()
            return
        self._failed.append(failed)
        full = len(self._failed) == self._policy.calls
        if full and sum(self._failed) >= self._policy.failures * self._policy.calls:
            self._opened = now
