"""Rows of a file as records' keys and values: NDJSON as it is, CSV and Parquet as JSON."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
import orjson
import polars as pl

from streamproc.core.repartition import at_path, key_text
from streamproc.errors import UserError

CHUNK_ROWS = 5_000
CHUNK_BYTES = 1 << 20
LONGEST_LINE = 256 << 20
TABLES: Final = frozenset({".csv", ".parquet"})

Progress = tuple[int, int | None]  # how far, of how much; in bytes or in rows
Told = Callable[[int, Progress], None]
"""Told of the events read so far, and of how far that is."""


@dataclass(frozen=True)
class Chunk:
    """Some values, and how far the source has been read."""

    values: list[bytes]
    progress: Progress


async def chunks(source: str, texts: Collection[str] = ()) -> AsyncIterator[Chunk]:
    """The values of a file, or of standard input for ``-``. Raises UserError where it cannot be read.

    ``texts`` are columns of CSV that stay as they are written: ``007`` is no number there.
    """
    if source == "-":
        async for chunk in _standard_input():
            yield chunk
        return
    path = Path(source)
    for chunk in _table(path, texts) if path.suffix.lower() in TABLES else _lines(path):
        yield chunk


def key_of(value: bytes, field: str) -> bytes | None:
    """The field of a JSON object as a record's key: a text as it is, else its JSON; None without one."""
    try:
        return key_text(field_of(orjson.loads(value), field))
    except orjson.JSONDecodeError:
        return None


def field_of(row: Any, field: str) -> Any:
    """A field of a decoded row; where it has none of that very name, a dot leads into an object. None without one.

    >>> field_of({"a": {"b": 1}}, "a.b"), field_of({"a.b": 2}, "a.b"), field_of([], "a")
    (1, 2, None)
    """
    if isinstance(row, dict) and field in row:
        return row[field]
    return at_path(row, field.split("."))


def _lines(path: Path) -> Iterator[Chunk]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            for values in _read_lines(file):
                yield Chunk(values, (file.tell(), size))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _read_lines(file: BinaryIO) -> Iterator[list[bytes]]:
    while lines := file.readlines(CHUNK_BYTES):
        yield [value for line in lines if (value := line.rstrip(b"\r\n"))]


def _table(path: Path, texts: Collection[str]) -> Iterator[Chunk]:
    try:
        frame = _scan(path, texts)
        total = frame.select(pl.len()).collect().item()
        done = 0
        for batch in frame.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True):
            done += batch.height
            yield Chunk([_json(row) for row in batch.iter_rows(named=True)], (done, total))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    except orjson.JSONEncodeError as error:
        hint = "whole numbers have at most 64 bits in JSON: make them texts, or smaller"
        raise UserError(f"{path} has a value that is none in JSON: {error}", hint) from error


def _scan(path: Path, texts: Collection[str]) -> pl.LazyFrame:
    """The rows of a file. Its name is a name, also where it could be a pattern."""
    if path.suffix.lower() == ".parquet":
        return pl.scan_parquet(path, glob=False)
    columns = pl.scan_csv(path, glob=False).collect_schema()
    return pl.scan_csv(path, glob=False, schema_overrides={name: pl.String for name in texts if name in columns})


def _json(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, default=str)


async def _standard_input() -> AsyncIterator[Chunk]:
    stream = click.get_binary_stream("stdin")
    if not _can_wait_for(stream):  # a file: it is all there
        done = 0
        for values in _read_lines(stream):
            done += len(values)
            yield Chunk(values, (done, None))
        return
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    # waiting for it must not keep Ctrl-C waiting
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), stream
    )
    try:
        done = 0
        async for line in reader:
            done += 1
            yield Chunk([value] if (value := line.rstrip(b"\r\n")) else [], (done, None))
    except ValueError as error:
        raise UserError(f"a line of standard input is longer than {LONGEST_LINE >> 20} MB") from error
    finally:
        transport.close()


def _can_wait_for(stream: BinaryIO) -> bool:
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)
