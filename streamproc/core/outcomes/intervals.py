"""How sure a measure is: intervals of 95 %, from counts alone."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Final, NamedTuple

Z: Final = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


class Estimate(NamedTuple):
    """A value with its interval, from ``of`` observations; ``None`` where they are too few to say."""

    value: float | None
    low: float | None
    high: float | None
    of: float


def wilson(count: float, of: float) -> Estimate:
    """The share ``count / of`` with its score interval.

    Wilson, E. B. (1927): Probable inference, the law of succession, and statistical inference. JASA 22, 209-212.

    >>> [round(part, 4) for part in wilson(1, 10)]
    [0.1, 0.0179, 0.4042, 10]
    """
    if of <= 0:
        return Estimate(None, None, None, of)
    share = count / of
    middle, spread = share + Z * Z / (2 * of), Z * sqrt(share * (1 - share) / of + Z * Z / (4 * of * of))
    scale = 1 + Z * Z / of
    return Estimate(share, max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale), of)


def mean(total: int, squares: int, of: int, unit: int = 1) -> Estimate:
    """The mean with its normal interval: mean ± z s / √n, with s² the unbiased variance; no interval for one alone.

    ``total`` and ``squares`` are exact sums of counts of a ``unit``-th, and of their squares.

    >>> mean(6_000_000, 14_000_000_000_000, 3, 1_000_000).value
    2.0
    """
    if of <= 0:
        return Estimate(None, None, None, of)
    value = total / of / unit
    if of == 1:
        return Estimate(value, None, None, of)
    spread = Z * sqrt((of * squares - total * total) / (of - 1)) / (of * unit)
    return Estimate(value, value - spread, value + spread, of)


def weighted(count: float, total: float, squares: float) -> Estimate:
    """A share among decisions of which a sample was looked at, each standing for 1 / share of them: ``count`` of
    ``total`` weights, whose squares sum to ``squares``.

    The estimate is Horvitz and Thompson's (1952, JASA 47, 663-685) with the known total replaced by its estimate
    (Hájek); the interval is Wilson's with Kish's effective number, (Σw)² / Σw², as the number of observations.
    """
    if total <= 0 or squares <= 0:
        return Estimate(None, None, None, 0)
    effective = total * total / squares
    return wilson(count / total * effective, effective)


def kappa(pairs: Mapping[tuple[str, str], int]) -> Estimate:
    """Agreement beyond chance between two who judged the same, from how often each pair of answers came.

    κ = (p_o - p_e) / (1 - p_e), with standard error √(p_o (1 - p_o) / n) / (1 - p_e). Cohen, J. (1960): A coefficient
    of agreement for nominal scales. Educational and Psychological Measurement 20, 37-46.

    >>> kappa({("a", "a"): 20, ("a", "b"): 5, ("b", "a"): 10, ("b", "b"): 15}).value
    0.4
    """
    of = sum(pairs.values())
    if not of:
        return Estimate(None, None, None, 0)
    answers = {answer for pair in pairs for answer in pair}
    agreed = sum(count for (one, other), count in pairs.items() if one == other) / of
    first = {one: sum(count for pair, count in pairs.items() if pair[0] == one) for one in answers}
    second = {one: sum(count for pair, count in pairs.items() if pair[1] == one) for one in answers}
    chance = sum(first[one] * second[one] for one in answers) / (of * of)
    if chance >= 1:
        return Estimate(None, None, None, of)
    value = round((agreed - chance) / (1 - chance), 12)
    spread = Z * sqrt(agreed * (1 - agreed) / of) / (1 - chance)
    return Estimate(value, value - spread, min(1.0, value + spread), of)
