"""Stage 1, contract: raw records to typed rows with an id and an event time. What fails is a dead letter."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from streamproc.core.contract import STAGE, json_path
from streamproc.core.decide.frame import Context, Frame, Numbers, Stage
from streamproc.core.expressions import compile_expression
from streamproc.core.plan import EVENT_TIME, Plan
from streamproc.core.processor import Answer, Ask
from streamproc.core.records import DeadLetter

ID_BYTES = 12
TIME = pl.Datetime("us", "UTC")
YEARS = (-62_135_596_800_000, 253_402_300_799_999)  # 1 to 9999, in milliseconds since the epoch
_DIGITS = r"(?-u)^\d{4}-\d{2}-\d{2}"
NO_CLOCK = datetime.fromtimestamp(0, UTC)
"""A ``now`` up to this is none."""
COMMON_SHAPES = (
    (_DIGITS + r" \d{2}:\d{2}:\d{2}(\.\d{1,9})?$", "%Y-%m-%d %H:%M:%S%.f"),
    (_DIGITS + r"T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z$", "%Y-%m-%dT%H:%M:%S%.fZ"),
)


def contract_stage(plan: Plan) -> Stage:
    """Decodes, checks, and makes the frame."""
    time = _time_expression(plan)

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        _read(frame, plan)
        frame.add(_event_times(frame, plan, time))
        frame.refuse(_without_time(frame, plan))
        frame.refuse(_ahead(frame, plan, context))
        frame.ids = decision_ids(plan.pipeline, plan.events.topic, *frame.records.places(frame.rows))
        frame.stale = _stale(frame, plan, context)
        return
        yield []

    return Stage("contract", frozenset(), (*plan.contract.columns, EVENT_TIME), run)


def _read(frame: Frame, plan: Plan) -> None:
    reading = plan.contract.read(frame.records.values)
    frame.rows, frame.columns = reading.rows, reading.columns
    frame.refused.update(reading.refused)


def _time_expression(plan: Plan) -> pl.Expr | None:
    name = plan.events.time
    if name is None:
        return None
    return _instant(name, plan.contract.columns[name])


def instants(column: pl.Series) -> pl.Series:
    """Texts (ISO 8601) or numbers (milliseconds since the epoch) as times; null for what is none."""
    return column.to_frame().select(_instant(column.name, column.dtype)).to_series()


def _instant(name: str, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_numeric():
        return _from_milliseconds(pl.col(name).cast(pl.Int64, strict=False))
    return compile_expression(f'CAST("{name}" AS TIMESTAMP)', {name: dtype}).expr.cast(TIME)


def _from_milliseconds(number: pl.Expr) -> pl.Expr:
    """Null where it is not within the years 1 to 9999, which is as far as ISO 8601 goes."""
    return pl.from_epoch(pl.when(number.is_between(*YEARS)).then(number), "ms").cast(TIME)


RECORD_TIME = _from_milliseconds(pl.col(EVENT_TIME)).alias(EVENT_TIME)


def _event_times(frame: Frame, plan: Plan, time: pl.Expr | None) -> pl.Series:
    """The declared field's time, or the record's own where none is declared."""
    name = plan.events.time
    if time is None or name is None:
        stamps = pl.Series(EVENT_TIME, frame.records.timestamps[frame.rows])
        return stamps.to_frame().select(RECORD_TIME).to_series()
    for shape, form in COMMON_SHAPES if frame.columns.schema[name] == pl.String else ():
        # Several times as fast as the expression, which takes every form; the result is the same.
        column = pl.col(name)
        parsed = column.str.to_datetime(form, strict=False, time_unit="us").dt.replace_time_zone("UTC")
        tried = frame.columns.select_seq(
            column.str.contains(shape).fill_null(False).all().alias("ok"), parsed.alias("t")
        )
        if len(frame) and tried["ok"][0]:
            return tried["t"].alias(EVENT_TIME)
    return frame.columns.select(time.alias(EVENT_TIME)).to_series()


def _without_time(frame: Frame, plan: Plan) -> dict[int, DeadLetter]:
    times = frame.columns[EVENT_TIME]
    if plan.events.time is None or not times.null_count():
        return {}
    path = json_path(plan.events.time.split("."))
    letter = DeadLetter(STAGE, "no_event_time", path, "not an ISO 8601 time, nor milliseconds since the epoch")
    return dict.fromkeys(times.is_null().arg_true().to_list(), letter)


def _ahead(frame: Frame, plan: Plan, context: Context) -> dict[int, DeadLetter]:
    """Events from too far in the future. Where there is no clock, as over a file of the past, nothing is."""
    if plan.events.max_ahead is None or context.now <= NO_CLOCK or not len(frame):
        return {}
    newest = pl.Series([context.now + plan.events.max_ahead]).cast(TIME)[0]
    ahead = frame.columns[EVENT_TIME] > newest
    if not ahead.any():
        return {}
    path = "" if plan.events.time is None else json_path(plan.events.time.split("."))
    letter = DeadLetter(
        STAGE, "from_the_future", path, f"more than {plan.events.max_ahead} ahead of the worker's clock"
    )
    return dict.fromkeys(ahead.arg_true().to_list(), letter)


def _stale(frame: Frame, plan: Plan, context: Context) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    if plan.events.max_age is None or not len(frame):
        return np.zeros(len(frame), np.bool_)
    oldest = pl.Series([context.now - plan.events.max_age]).cast(TIME)[0]
    stale: np.ndarray[tuple[int], np.dtype[np.bool_]] = (frame.columns[EVENT_TIME] < oldest).to_numpy()
    frame.count("stale", plan.events.topic, int(stale.sum()))
    return stale


def decision_ids(pipeline: str, topic: str, lanes: Numbers, offsets: Numbers, timestamps: Numbers) -> list[str]:
    """The lane's partition number, then blake2b over pipeline, topic, partition, offset and record timestamp.

    The number in front lets verdicts and outcomes find their lane whatever partitioner their producer used. Offset and
    timestamp are hashed as two little-endian integers of 64 bits. All three are of shape (n,).
    """
    varying = np.stack([offsets, timestamps], axis=1).astype("<i8").tobytes()
    partitions, starts, digests = lanes.tolist(), dict[int, Any](), []
    for partition in set(partitions):
        named = f"{pipeline}\0{topic}\0{partition}\0".encode()
        starts[partition] = hashlib.blake2b(named, digest_size=ID_BYTES).copy
    for place, start in enumerate(map(starts.__getitem__, partitions)):
        digest = start()
        digest.update(varying[16 * place : 16 * place + 16])
        digests.append(digest.digest())
    digits, prefixes = b"".join(digests).hex(), {partition: f"{partition}-" for partition in starts}
    places = range(0, len(digits), 2 * ID_BYTES)
    return [
        prefix + digits[place : place + 2 * ID_BYTES]
        for prefix, place in zip(map(prefixes.__getitem__, partitions), places, strict=True)
    ]
