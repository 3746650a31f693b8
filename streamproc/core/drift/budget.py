"""From a budget of false alarms to the threshold of every test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

K = 0.5
"""Half the shift, in standard deviations of a window's score, for which the CUSUM is the best test."""
FEWEST_EVENTS = 1_000
"""To one false alarm: more of them is no monitoring."""
OVERSHOOT = 1.166
"""How much a CUSUM in discrete time oversteps its threshold, at both ends (Siegmund 1985, chapter X)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """At most ``alarms`` false alarms in ``events`` events, or in ``period``, over all monitors together."""

    alarms: float
    events: float | None = None
    period: timedelta | None = None

    def events_per_alarm(self, events_per_second: float | None) -> float:
        """How many events there are to one false alarm. Raises ValueError where the rate is needed and not known."""
        if self.events is not None:
            return self.events / self.alarms
        assert self.period is not None
        if events_per_second is None:
            raise ValueError("how many events there are in a period is not known: the reference has no event times")
        return events_per_second * self.period.total_seconds() / self.alarms


@dataclass(frozen=True, slots=True)
class Thresholds:
    """``height`` is Siegmund's b, ``cusum`` the threshold of a CUSUM of standard normals, ``ratio`` that of a
    CUSUM of log likelihood ratios. ``looks`` is how often any test looks, for one false alarm."""

    looks: float
    height: float
    cusum: float
    ratio: float


def run_length(shift: float, allowance: float, threshold: float) -> float:
    """The average run length of a one-sided CUSUM of normals with unit variance and mean ``shift`` (Siegmund 1985).

    (e^(-2 d b) + 2 d b - 1) / (2 d^2) with d = shift - allowance, b = threshold + 1.166; b^2 where d is 0. In windows.
    """
    drift, height = shift - allowance, threshold + OVERSHOOT
    if abs(drift * height) < 1e-4:
        return height * height
    exponent = -2 * drift * height
    if exponent > 700:
        return math.inf
    return (math.exp(exponent) - exponent - 1) / (2 * drift * drift)


def thresholds(looks: float) -> Thresholds:
    """Such that among so many looks of one-sided tests one is a false alarm.

    Siegmund's approximation of a CUSUM's average run length: (e^b - b - 1) / k = looks with 2k = 1, threshold b -
    1.166. A CUSUM of log likelihood ratios has at least e^threshold (Lorden 1971).
    """
    looks = max(looks, 2.0)
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        if run_length(0.0, K, middle) < looks:
            low = middle
        else:
            high = middle
    return Thresholds(looks, high + OVERSHOOT, high, math.log(looks))
