"""Tables from files, for what runs without Kafka: ``with_tables(pipeline, {"profiles": Path("profiles.ndjson")})``."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from streamproc.core.decide import DecideProcessor
from streamproc.core.decide.events import instants
from streamproc.core.plan import LookupSource, Plan
from streamproc.core.repartition import key_text
from streamproc.core.table import Row, RowReader
from streamproc.errors import UserError
from streamproc.io.file_table import FileTable
from streamproc.pipeline import Pipeline
from streamproc.plan.names import near
from streamproc.rows import chunks, field_of
from streamproc.stores import key_type

log = logging.getLogger(__name__)

HASH_BYTES = 16
WHOLE = re.compile(r"-?\d+\.0+")
"""A whole number as CSV has it of a column with gaps."""


def with_tables(pipeline: Pipeline, files: Mapping[str, Path], times: Mapping[str, str] | None = None) -> Pipeline:
    """The pipeline with tables, or stores, that are files: NDJSON, CSV or Parquet, with the source's key as a field.

    ``times`` names the field of a source's rows that says from when on they hold: an event is given the row that held
    at its time. Without it the last row of a key is the only one. Raises UserError where a file cannot be used.
    """
    times = times or {}
    known = {source.name: source for source in pipeline.plan.sources}
    for name in (*files, *times):
        if name not in known:
            raise UserError(f"nothing is looked up in {name!r}", near(name, known, "tables and stores"))
        if name not in files:
            raise UserError(f"there is no file of {name!r}", f"name it too: `--table {name}=FILE`")
    found = {
        name: asyncio.run(read_table(path, known[name], key_type(pipeline.plan, known[name]), times.get(name)))
        for name, path in files.items()
    }
    pipeline.answers.look_up_in(found)
    if missing := [name for name in known if not pipeline.answers.looks_up_in(name)]:
        log.warning("no rows of %s: what is looked up there is missing everywhere", ", ".join(missing))
    return replace(pipeline, processor=_with_history(pipeline.processor, frozenset(times)))


def _with_history(processor: DecideProcessor, timed: frozenset[str]) -> DecideProcessor:
    """The processor, asking some sources for what was when."""
    if not timed:
        return processor
    plan: Plan = processor.plan
    sources = tuple(replace(source, history=source.name in timed) for source in plan.sources)
    made = DecideProcessor.of(replace(plan, sources=sources), processor.masker)
    return replace(made, watch=processor.watch)


async def read_table(path: Path, source: LookupSource, kind: pl.DataType, time: str | None) -> FileTable:
    """The rows of a file, by keys of that kind. One that does not satisfy the table's contract takes the row before it
    away, as online; so does one in which there is nothing but its key and its time, as a record without a value does.
    """
    keys, moments = list[bytes](), list[Any]()
    rows: list[Row | None] = []
    digest, refused = hashlib.blake2b(digest_size=HASH_BYTES), 0
    read = _reader(source)
    texts = [source.key, *(name for name, dtype in source.fields.items() if dtype == pl.String)]
    async for chunk in chunks(str(path), texts):
        for value, row in zip(chunk.values, read(chunk.values), strict=True):
            digest.update(value)
            given = _object(value) or {}
            key = _as_key(field_of(given, source.key), kind)
            given.pop(source.key, None)
            if key is None:
                raise UserError(f"{path}: a row has no field `{source.key}`", f"it is the key of {source.name}")
            moments.append(given.pop(time, None) if time is not None else None)
            deletes = all(one is None for one in given.values())
            refused += row is None and not deletes
            keys.append(key)
            rows.append(None if deletes else row)
    if refused:
        log.warning("%s: %d rows do not satisfy the contract of %s: their keys have no row", path, refused, source.name)
    held = None if time is None else _held_from(path, time, moments)
    return FileTable(keys, rows, held, f"{path.name}@{digest.hexdigest()}")


def _as_key(value: Any, kind: pl.DataType) -> bytes | None:
    """A key as events have it. Files do not always tell whole numbers from others, and CSV tells nothing.

    >>> _as_key(7.0, pl.Int64()), _as_key("7.0", pl.Int64()), _as_key("7.0", pl.String()), _as_key("True", pl.Boolean())
    (b'7', b'7', b'7.0', b'true')
    """
    if kind == pl.Int64 and isinstance(value, float) and value.is_integer():
        value = int(value)
    elif kind == pl.Int64 and isinstance(value, str) and WHOLE.fullmatch(value):
        value = value.partition(".")[0]
    elif kind == pl.Boolean and isinstance(value, str):
        value = value.lower()
    return key_text(value)


def _reader(source: LookupSource) -> Callable[[Sequence[bytes]], list[Row | None]]:
    """From values to rows, ``None`` for those that are refused."""
    if source.contract is not None:
        reader = RowReader(source.contract, tuple(source.fields))

        return lambda values: reader.read(values)[0]

    def plain(values: Sequence[bytes]) -> list[Row | None]:
        """Of a store: types are looked at when a row is used."""
        found = [_object(value) for value in values]
        return [None if one is None else tuple(one.get(name) for name in source.fields) for one in found]

    return plain


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _held_from(path: Path, time: str, moments: list[Any]) -> list[int]:
    """When rows hold from, in µs since the epoch."""
    if not moments:
        return []
    try:
        column = pl.Series(time, moments)
        times = instants(column) if column.dtype == pl.String or column.dtype.is_numeric() else None
    except (TypeError, pl.exceptions.PolarsError):
        times = None
    if times is None or times.null_count():
        hint = "ISO 8601, or milliseconds since 1970"
        raise UserError(f"{path}: not every row has a time in its field `{time}`", hint)
    return times.cast(pl.Int64).to_list()
