"""Rows of a file as records' keys and values: NDJSON as it is, CSV and Parquet as JSON."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
import polars as pl

from streamproc.core.repartition import key_text
from streamproc.errors import UserError

CHUNK_ROWS = 5_000
CHUNK_BYTES = 1 << 20
LONGEST_LINE = 256 << 20
TABLES: dict[str, Callable[[Path], pl.LazyFrame]] = {".csv": pl.scan_csv, ".parquet": pl.scan_parquet}

Progress = tuple[int, int | None]  # how far, of how much; in bytes or in rows
Told = Callable[[int, Progress], None]
"""Told of the events read so far, and of how far that is."""


@dataclass(frozen=True)
class Chunk:
    """Some values, and how far the source has been read."""

    values: list[bytes]
    progress: Progress


async def chunks(source: str) -> AsyncIterator[Chunk]:
    """The values of a file, or of standard input for ``-``. Raises UserError where it cannot be read."""
    if source == "-":
        async for chunk in _standard_input():
            yield chunk
        return
    path = Path(source)
    for chunk in _table(path) if path.suffix.lower() in TABLES else _lines(path):
        yield chunk


def key_of(value: bytes, field: str) -> bytes | None:
    """The field of a JSON object as a record's key: a text as it is, else its JSON; None without one."""
    try:
        row = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return key_text(row.get(field) if isinstance(row, dict) else None)


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


def _table(path: Path) -> Iterator[Chunk]:
    try:
        frame = TABLES[path.suffix.lower()](path)
        total = frame.select(pl.len()).collect().item()
        done = 0
        for batch in frame.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True):
            done += batch.height
            yield Chunk([_json(row) for row in batch.iter_rows(named=True)], (done, total))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


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
