"""Look-ups: one ask per source and batch, and what came back as columns.

A source is asked once for each key that is there, however many events have it. What it gives nothing for has the
default, and is flagged: no look-up stops an event.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.contract.fields import fit
from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.names import STALE, WRONG_TYPE
from streamproc.core.plan import EVENT_TIME, LookupFeature, LookupSource, Plan
from streamproc.core.processor import Answer, Ask, Lookup

NO_KEY = "no_key"
"""The event has no value to look up."""
NO_VALUE = "no_value"
"""The row does not have the field, or null there."""
COUNTED = "missing_lookups"
EXACTLY: Final[Mapping[pl.DataType, type]] = {
    pl.Float64(): float,
    pl.Int64(): int,
    pl.Boolean(): bool,
    pl.String(): str,
}
"""The type whose values a column holds as they are."""


def lookups_stage(plan: Plan, features: Sequence[LookupFeature]) -> Stage:
    """Adds the columns of the features."""
    wanted = [
        (source, own) for source in plan.sources if (own := [one for one in features if one.source == source.name])
    ]

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        asked = [_Asked.of(source, frame) for source, _ in wanted]
        asks: list[Ask] = [one.ask for one in asked if one.ask.keys]
        answers = iter((yield asks) if asks else ())
        for (source, own), one in zip(wanted, asked, strict=True):
            answer = next(answers) if one.ask.keys else Answer.nothing(0, NO_KEY, health="not asked")
            _take(frame, source, own, one, answer)

    columns = [name for feature in features for name in feature.columns]
    return Stage("lookups", frozenset(feature.key for feature in features), tuple(columns), run)


@dataclass(frozen=True, slots=True)
class _Asked:
    """An ask for the distinct keys of a frame; ``numbers`` has for each row the place of its key, null for no key."""

    ask: Lookup
    numbers: pl.Series

    @classmethod
    def of(cls, source: LookupSource, frame: Frame) -> _Asked:
        keys: list[bytes | None] = frame.columns[source.key].cast(pl.String).cast(pl.Binary).to_list()
        beside = _beside(source, frame)
        rows: list[Any] = keys
        if beside:
            pairs = zip(keys, *(column.tolist() for column in beside.values()), strict=True)
            rows = [None if key is None else (key, *more) for key, *more in pairs]
        places: dict[Any, int] = {}  # a plain loop: on batches of any size it is quicker than a join
        numbers = [None if row is None else places.setdefault(row, len(places)) for row in rows]
        distinct = list(places)
        if not beside:
            ask = Lookup(source.name, distinct, tuple(source.fields))
        else:
            more = {
                name: np.fromiter((row[place] for row in distinct), np.int64, len(distinct))
                for place, name in enumerate(beside, 1)
            }
            ask = Lookup(source.name, [row[0] for row in distinct], tuple(source.fields), **more)
        return cls(ask, pl.Series(numbers, dtype=pl.UInt32))


def _beside(source: LookupSource, frame: Frame) -> dict[str, NDArray[np.int64]]:
    """What goes with each key, where the source wants to know: int64 of shape (n,) by its name in ``Lookup``."""
    found = dict[str, NDArray[np.int64]]()
    if source.by_lane:
        found["lanes"] = frame.records.partitions[frame.rows]
    if source.history:
        found["times"] = frame.columns[EVENT_TIME].cast(pl.Int64).to_numpy()
    return found


def _take(frame: Frame, source: LookupSource, features: Sequence[LookupFeature], asked: _Asked, answer: Answer) -> None:
    """Add the columns of one source's features, and count what has no value."""
    keys, numbers = asked.ask.keys, asked.numbers
    if len(answer.values) != len(keys) or len(answer.reasons) != len(keys):
        answer = Answer.nothing(len(keys), "wrong_length", answer.version)
    frame.lookups[source.name] = ", ".join(filter(None, (answer.version, answer.health)))
    frame.count(COUNTED, f"{source.name}/{NO_KEY}", numbers.null_count())
    _count(frame, source, answer.reasons, numbers)
    if answer.health == STALE:
        frame.count(COUNTED, f"{source.name}/{STALE}", len(numbers) - numbers.null_count())
    places, columns = {name: place for place, name in enumerate(source.fields)}, list[pl.Series]()
    for feature in features:
        place = places[feature.field or ""]
        given = [None if row is None else row[place] for row in answer.values]
        column, wrong = _column(given, feature.dtype)
        _count(frame, source, _why(answer, given, wrong), numbers)
        values = column.gather(numbers)
        columns.append(values.is_null().alias(feature.missing))
        if feature.default is not None and values.null_count():
            values = values.fill_null(pl.lit(feature.default, feature.dtype))
        columns.append(values.alias(feature.name))
    frame.add(*columns)


def _column(given: list[Any], dtype: pl.DataType) -> tuple[pl.Series, set[int]]:
    """The values as a column, null for what is of another type, and the places of those.

    What becomes of a value depends on it alone: Polars, given values of several types, has ideas of its own.
    """
    if set(map(type, given)) <= {EXACTLY[dtype], type(None)}:
        try:
            column = pl.Series(given, dtype=dtype)
            if dtype != pl.Float64 or column.is_finite().all():
                return column, set()
        except (TypeError, OverflowError, UnicodeEncodeError):
            pass
    fitting = [_fit(value, dtype) for value in given]
    wrong = {place for place, value in enumerate(given) if value is not None and fitting[place] is None}
    return pl.Series(fitting, dtype=dtype), wrong


def _fit(value: Any, dtype: pl.DataType) -> Any:
    """The value as its column can hold it, or ``None``: anything at all may come from a store."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and not _is_utf8(value):
        return None
    try:
        return fit(value, dtype)
    except OverflowError:
        return None


def _is_utf8(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which Python's texts may have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _why(answer: Answer, given: list[Any], wrong: set[int]) -> list[str | None]:
    """Why the rows that are there have no value."""
    if not wrong and None not in given:
        return []
    return [
        WRONG_TYPE if place in wrong else NO_VALUE if value is None and row is not None else None
        for place, (value, row) in enumerate(zip(given, answer.values, strict=True))
    ]


def _count(frame: Frame, source: LookupSource, reasons: Sequence[str | None], numbers: pl.Series) -> None:
    """Count the events of each reason, of which there is one per key."""
    if not any(reasons):
        return
    of_rows = pl.Series("reason", reasons, dtype=pl.String).gather(numbers).drop_nulls()
    for reason, rows in of_rows.value_counts().iter_rows():
        frame.count(COUNTED, f"{source.name}/{reason}", rows)
