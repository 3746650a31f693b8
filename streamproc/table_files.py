"""Tables from files, for what runs without Kafka: ``with_tables(pipeline, {"profiles": Path("profiles.ndjson")})``."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from streamproc.core.decide import DecideProcessor
from streamproc.core.decide.events import instants
from streamproc.core.plan import LookupSource, Plan
from streamproc.core.table import Row, RowReader
from streamproc.errors import UserError
from streamproc.io.file_table import FileTable
from streamproc.pipeline import Pipeline
from streamproc.plan.names import near
from streamproc.rows import chunks, key_of

log = logging.getLogger(__name__)

HASH_BYTES = 16


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
    found = {name: asyncio.run(read_table(path, known[name], times.get(name))) for name, path in files.items()}
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


async def read_table(path: Path, source: LookupSource, time: str | None) -> FileTable:
    """The rows of a file. Those that do not satisfy the table's contract are left out, as online."""
    keys, rows, moments, digest, refused = list[bytes](), list[Row](), list[Any](), hashlib.blake2b(digest_size=16), 0
    read = _reader(source)
    async for chunk in chunks(str(path)):
        made, bad = read(chunk.values)
        refused += bad
        for value, row in zip(chunk.values, made, strict=True):
            digest.update(value)
            key = key_of(value, source.key)
            if key is None:
                raise UserError(f"{path}: a row has no field `{source.key}`", f"it is the key of {source.name}")
            if row is not None:
                keys.append(key)
                rows.append(row)
                moments.append(orjson.loads(value).get(time) if time is not None else None)
    if refused:
        log.warning("%s: %d rows do not satisfy the contract of %s and are left out", path, refused, source.name)
    held = None if time is None else _held_from(path, time, moments)
    return FileTable(keys, rows, held, f"{path.name}@{digest.hexdigest()}")


def _reader(source: LookupSource) -> Any:
    """From values to rows, and how many of them were refused."""
    if source.contract is not None:
        reader = RowReader(source.contract, tuple(source.fields))

        def checked(values: Sequence[bytes]) -> tuple[list[Row | None], int]:
            rows, refused = reader.read(values)
            return rows, len(refused)

        return checked

    def plain(values: Sequence[bytes]) -> tuple[list[Row | None], int]:
        """Of a store: types are looked at when a row is used."""
        found = [_object(value) for value in values]
        rows = [None if one is None else tuple(one.get(name) for name in source.fields) for one in found]
        return rows, rows.count(None)

    return plain


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _held_from(path: Path, time: str, moments: list[Any]) -> list[int]:
    """When rows hold from, in µs since the epoch."""
    try:
        column = pl.Series(time, moments)
        times = instants(column) if column.dtype == pl.String or column.dtype.is_numeric() else None
    except (TypeError, pl.exceptions.PolarsError):
        times = None
    if times is None or (moments and times.null_count()):
        hint = "ISO 8601, or milliseconds since 1970"
        raise UserError(f"{path}: not every row has a time in its field `{time}`", hint)
    return times.cast(pl.Int64).to_list()
