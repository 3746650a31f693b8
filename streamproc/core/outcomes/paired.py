"""Two ways of judging the same things: which of them is right more often, and how sure that is."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

from streamproc.core.outcomes.intervals import Estimate, wilson


class Paired(NamedTuple):
    """How often both were right, the first alone, the second alone, and neither."""

    both: int = 0
    first: int = 0
    second: int = 0
    neither: int = 0

    @property
    def of(self) -> int:
        return sum(self)

    @property
    def p_value(self) -> float:
        """The chance of so uneven a split of what only one had right, or one more uneven, if both were equally good.

        McNemar's test in its exact form: two-sided binomial with one half. McNemar, Q. (1947): Note on the sampling
        error of the difference between correlated proportions or percentages. Psychometrika 12, 153-157.

        >>> Paired(50, 9, 1, 5).p_value, Paired(5, 0, 0, 5).p_value
        (0.021484375, 1.0)
        """
        apart, fewer = self.first + self.second, min(self.first, self.second)
        total = term = 1  # whole numbers: floats would overflow
        for one in range(1, fewer + 1):
            term = term * (apart - one + 1) // one
            total += term
        return min(1.0, 2 * total / (1 << apart))

    @property
    def difference(self) -> Estimate:
        """By how much the second is right more often, with its interval.

        Newcombe, R. G. (1998): Improved confidence intervals for the difference between binomial proportions based on
        paired data. Statistics in Medicine 17, 2635-2650: method 10, Wilson's intervals of both, less what they share.
        """
        if not self.of:
            return Estimate(None, None, None, 0)
        one, two = self.both + self.first, self.both + self.second
        first, second, shared = wilson(one, self.of), wilson(two, self.of), self._shared(one, two)
        assert first.value is not None and second.value is not None
        down = _spread(second.value - (second.low or 0.0), (first.high or 0.0) - first.value, shared)
        up = _spread((second.high or 0.0) - second.value, first.value - (first.low or 0.0), shared)
        value = (self.second - self.first) / self.of
        return Estimate(value, max(-1.0, value - down), min(1.0, value + up), self.of)

    def _shared(self, one: int, two: int) -> float:
        """The correlation φ of both, with Newcombe's correction of n/2 where it is above 0."""
        size = one * (self.of - one) * two * (self.of - two)
        if not size:
            return 0.0
        product = self.both * self.neither - self.first * self.second
        return (max(product - self.of / 2, 0.0) if product > 0 else product) / sqrt(size)


def _spread(one: float, other: float, shared: float) -> float:
    return sqrt(max(0.0, one * one - 2 * shared * one * other + other * other))
