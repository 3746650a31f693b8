"""Streams whose statistics are known, in blocks: each continues where the one before ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Floats: TypeAlias = NDArray[np.float64]
Blocks: TypeAlias = Iterator[Floats]
Stream: TypeAlias = Callable[[np.random.Generator, int, int], Blocks]
"""Given randomness, the columns and the rows of a block: blocks of shape (rows, columns), for ever."""

BURN_IN = 5_000
DAY = 10_000
"""Events in a period of the daily streams."""


def independent(draw: Callable[[np.random.Generator, tuple[int, int]], Floats]) -> Stream:
    """Of independent values."""

    def blocks(rng: np.random.Generator, columns: int, rows: int) -> Blocks:
        while True:
            yield draw(rng, (rows, columns))

    return blocks


def autoregressive(rho: float) -> Stream:
    """x' = rho x + e, with unit variance."""

    def blocks(rng: np.random.Generator, columns: int, rows: int) -> Blocks:
        state = np.zeros((1, columns))
        skip = True
        while True:
            noise = rng.standard_normal((BURN_IN if skip else rows, columns)) * np.sqrt(1 - rho * rho)
            block, state = lfilter([1.0], [1.0, -rho], noise, axis=0, zi=state)
            if not skip:
                yield block
            skip = False

    return blocks


def wandering(rho: float, share: float) -> Stream:
    """Independent normals on a slow autoregression that has a share of the variance."""

    def blocks(rng: np.random.Generator, columns: int, rows: int) -> Blocks:
        for slow in autoregressive(rho)(rng, columns, rows):
            yield np.sqrt(share) * slow + np.sqrt(1 - share) * rng.standard_normal((rows, columns))

    return blocks


def one_factor(share: float) -> Stream:
    """Normals that have a share of their variance in common."""

    def blocks(rng: np.random.Generator, columns: int, rows: int) -> Blocks:
        while True:
            common = rng.standard_normal((rows, 1))
            yield np.sqrt(share) * common + np.sqrt(1 - share) * rng.standard_normal((rows, columns))

    return blocks


def daily(rng: np.random.Generator, columns: int, rows: int) -> Blocks:
    """Normals whose mean swings by one standard deviation, and between them 0s and 1s whose share swings by .2."""
    at = 0
    while True:
        swing = np.sin(2 * np.pi * np.arange(at, at + rows) / DAY)[:, None]
        block = swing + rng.standard_normal((rows, columns))
        shares = block[:, 1::2]
        block[:, 1::2] = rng.random(shares.shape) < 0.3 + 0.2 * swing
        yield block
        at += rows


def _zero_inflated(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return np.where(rng.random(shape) < 0.6, 0.0, np.exp(2 * rng.standard_normal(shape)))


STREAMS: Mapping[str, Stream] = {
    "normal": independent(lambda rng, shape: rng.standard_normal(shape)),
    "lognormal": independent(lambda rng, shape: np.exp(rng.standard_normal(shape))),
    "t(3)": independent(lambda rng, shape: rng.standard_t(3, shape)),
    "zero-inflated": independent(_zero_inflated),
    "Bernoulli(.01)": independent(lambda rng, shape: (rng.random(shape) < 0.01).astype(np.float64)),
    "one factor": one_factor(0.8),
    "AR(.3)": autoregressive(0.3),
    "AR(.9)": autoregressive(0.9),
    "AR(.99)": autoregressive(0.99),
    "wander": wandering(0.999, 0.2),
    "daily": daily,
}
