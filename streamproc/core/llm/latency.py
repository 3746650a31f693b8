"""How long calls take, and what follows from that: how long to wait for one, and when a second one is worth it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

FEW: Final = 20
"""Of fewer calls nothing can be said about their slowest twentieth."""


@dataclass(frozen=True, slots=True)
class LatencyPolicy:
    """``p95`` and ``p99`` in seconds are what is expected while nothing is known. At most the share ``hedges`` of calls
    may be second ones."""

    p95: float = 0.8
    p99: float = 1.5
    hedges: float = 0.1
    calls: int = 500
    """So many of the last calls count."""


def nearest_rank(values: Sequence[float], share: float) -> float:
    """The least of sorted values that such a share of them, more than none, does not exceed.

    >>> nearest_rank([1.0, 2.0, 3.0, 4.0], 0.5), nearest_rank([1.0, 2.0, 3.0, 4.0], 0.51)
    (2.0, 3.0)
    """
    return values[ceil(share * len(values)) - 1]


class Latencies:
    """The last calls' times, and how many second calls were made beside how many first ones.

    Exact quantiles of a bounded number of calls: with some hundreds of them a sort costs less than a call's bytes.
    """

    def __init__(self, policy: LatencyPolicy) -> None:
        self._policy = policy
        self._seconds = deque[float](maxlen=policy.calls)
        self._sorted: list[float] | None = None  # until another one comes
        self._allowed = 0.0

    def took(self, seconds: float) -> None:
        """A call ended well after so long."""
        self._seconds.append(seconds)
        self._sorted = None

    def quantile(self, share: float) -> float | None:
        """The time in which such a share of calls ended, or ``None`` where too few are known. Nearest rank."""
        if len(self._seconds) < FEW:
            return None
        if self._sorted is None:
            self._sorted = sorted(self._seconds)
        return nearest_rank(self._sorted, share)

    @property
    def hedge_after(self) -> float:
        """Seconds after which a call is one of the slow ones, and another one is begun beside it."""
        found = self.quantile(0.95)
        return self._policy.p95 if found is None else found

    @property
    def patience(self) -> float:
        """Seconds after which a call is given up, so that another attempt has time: three times what 99 % take."""
        found = self.quantile(0.99)
        return 3.0 * max(self._policy.p99, found or 0.0)

    def began(self) -> None:
        """A first call is made: it earns a part of a second one. Not more than a few are saved up for bad times."""
        self._allowed = min(self._allowed + self._policy.hedges, max(1.0, 10.0 * self._policy.hedges))

    def may_hedge(self) -> bool:
        """Whether a second call may be made now; it is counted."""
        if self._allowed < 1.0 - 1e-9:
            return False
        self._allowed -= 1.0
        return True
