"""How a column is binned: quantiles of the reference for numbers, its commonest values for categories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

Codes = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]

QUANTILES: Final = np.array(
    [0.001, 0.005, 0.01, 0.025, *np.arange(0.05, 0.951, 0.05).round(2), 0.975, 0.99, 0.995, 0.999]
)
FEW_VALUES: Final = 12
"""Numbers with no more different values are watched as categories."""
MANY: Final = 200
"""From so many values on they are compared with all edges at once."""
MOST_CATEGORIES: Final = 24
"""So many categories have a bin of their own; the others share one."""
MOST_KNOWN: Final = 10_000
"""A column with more different values than this is not watched as categories."""
LONGEST_NAME: Final = 100
EXPECTED: Final = 8.0
"""So many events are expected in a merged bin, and of a share that has a test of its own, at the least."""
MERGED_BINS: Final = 10
OTHER, UNSEEN, MISSING = "other", "unseen", "missing"


@dataclass(frozen=True, slots=True)
class NumericBins:
    """Bin 0 is below the reference's least value, bin i is (edge i-1, edge i], bin len(edges) above its greatest.

    The last bin is of missing values. The first edge lies just below the least value, so that it is inside. ``centre``
    and ``scale`` are robust, for moments; ``mean`` and ``spread`` are the reference's own, for people.
    """

    name: str
    edges: Floats
    centre: float
    scale: float
    mean: float
    spread: float

    @property
    def size(self) -> int:
        return len(self.edges) + 2

    def codes(self, column: pl.Series) -> Codes:
        """The bin of each value, shape (n,). NaN is missing, infinities are out of range."""
        return self.codes_of(numbers(column))

    def codes_of(self, values: Floats) -> Codes:
        """``codes`` of values that are an array already, shape (n,)."""
        codes: NDArray[Any]
        if len(values) < MANY:
            codes = np.searchsorted(self.edges, values)
        else:  # a search jumps about, and comparing with every edge does not: four times as fast
            codes = np.add.reduce(values > self.edges[:, None], axis=0, dtype=np.uint8)
        missing = np.isnan(values)
        if missing.any():
            codes[missing] = len(self.edges) + 1
        return codes

    def label(self, place: int) -> str:
        """A bin in words."""
        edges = self.edges
        if place == len(edges) + 1:
            return MISSING
        if place == 0:
            return f"< {edges[0]:.6g}"
        if place == len(edges):
            return f"> {edges[-1]:.6g}"
        return f"{edges[place - 1]:.6g} to {edges[place]:.6g}"


@dataclass(frozen=True, slots=True)
class CategoricalBins:
    """The commonest values have a bin each, commonest first; then come other known ones, unseen ones, missing."""

    name: str
    categories: tuple[str, ...]
    others: tuple[str, ...] = ()
    _places: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = {value: place for place, value in enumerate(self.categories)}
        places |= dict.fromkeys(self.others, len(self.categories))
        object.__setattr__(self, "_places", places)

    @property
    def size(self) -> int:
        return len(self.categories) + 3

    def codes(self, column: pl.Series) -> Codes:
        """The bin of each value, shape (n,)."""
        return look_up(
            as_text(column), self._places, unknown=len(self.categories) + 1, missing=len(self.categories) + 2
        )

    def label(self, place: int) -> str:
        """A bin in words."""
        return (*self.categories, OTHER, UNSEEN, MISSING)[place]


Bins = NumericBins | CategoricalBins


def numbers(column: pl.Series) -> Floats:
    """The values as float64, missing ones as NaN."""
    values: Floats = column.cast(pl.Float64, strict=False).to_numpy()
    return values


def as_text(column: pl.Series) -> pl.Series:
    """Values as the names of categories: whole numbers without a fraction, truth values as true and false."""
    if column.dtype == pl.String:
        return column
    if column.dtype.is_float():
        valid = column.fill_nan(None).alias("value")  # value by value: a name must not depend on what stands beside it
        whole = (
            pl.col("value").is_finite()
            & (pl.col("value") == pl.col("value").round(0))
            & (pl.col("value").abs() < 2**53)
        )
        number = pl.col("value").cast(pl.Int64, strict=False).cast(pl.String)
        return (
            valid.to_frame().select(pl.when(whole).then(number).otherwise(pl.col("value").cast(pl.String))).to_series()
        )
    return column.cast(pl.String)


def look_up(texts: pl.Series, places: Mapping[str, int], *, unknown: int, missing: int) -> Codes:
    """The place of each text, shape (n,), with numbers for those that have none and for missing ones."""
    if len(texts) > 4 * len(places):
        codes = texts.replace_strict(places, default=unknown, return_dtype=pl.Int64)
        return codes.set(texts.is_null(), missing).to_numpy() if texts.null_count() else codes.to_numpy()
    # A small batch: cheaper than telling Polars of all places.
    return np.fromiter((missing if text is None else places.get(text, unknown) for text in texts), np.int64, len(texts))


def commonest(texts: pl.Series) -> list[str]:
    """The different texts, the commonest first, and those that are as common in the order of their characters."""
    counts = texts.drop_nulls().alias("text").value_counts()
    return counts.sort(["count", "text"], descending=[True, False])["text"].to_list()


def merged(shares: Floats, window: int) -> Codes:
    """The first bins of neighbours merged until each expects at least 8 events in a window and there are about ten."""
    need = max(EXPECTED / window, 0.8 / MERGED_BINS)
    starts, mass = [0], 0.0
    for place, share in enumerate(shares.tolist()):
        if mass >= need and shares[place:].sum() >= need:
            starts.append(place)
            mass = 0.0
        mass += share
    return np.array(starts, np.int64)


def make_bins(name: str, column: pl.Series) -> Bins | str:
    """The bins of a reference column, or why it cannot be watched."""
    valid = column.fill_nan(None).drop_nulls() if column.dtype.is_float() else column.drop_nulls()
    if column.dtype.is_numeric() or column.dtype.is_temporal():
        finite = numbers(valid)
        finite = finite[np.isfinite(finite)]
        distinct = np.unique(finite)
        if len(distinct) > FEW_VALUES:
            return _numeric(name, finite, distinct)
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        return "it is neither a number nor a text"
    values = commonest(as_text(valid))
    if len(values) > MOST_KNOWN or len(values) > len(valid) / 2 > FEW_VALUES:
        return f"it has {len(values):,} different values in {len(valid):,}: it looks like a key, not like a category"
    if any(len(value) > LONGEST_NAME for value in values[:MOST_CATEGORIES]):
        return f"it has values of more than {LONGEST_NAME} characters: it looks like a text, not like a category"
    return CategoricalBins(name, tuple(values[:MOST_CATEGORIES]), tuple(sorted(values[MOST_CATEGORIES:])))


def _numeric(name: str, finite: Floats, distinct: Floats) -> NumericBins:
    least, most = float(distinct[0]), float(distinct[-1])
    inner = np.unique(np.quantile(finite, QUANTILES, method="higher"))
    inner = inner[(inner >= least) & (inner < most)]
    below = max(math.nextafter(least, -math.inf), -float(np.finfo(np.float64).max))
    edges = np.concatenate([[below], inner, [most]])
    quartiles = np.quantile(finite, [0.25, 0.5, 0.75], method="higher")  # interpolating might overflow
    unit = float(np.abs(finite).max()) or 1.0  # so that squares of huge and tiny values are neither inf nor 0
    scaled = finite / unit
    spread = float(scaled.std()) * unit
    scale = float(quartiles[2] / 1.349 - quartiles[0] / 1.349) or spread
    scale = scale if np.isfinite(scale) and scale > 0 else unit
    return NumericBins(name, edges, float(quartiles[1]), scale, float(scaled.mean()) * unit, spread)
