"""A lane's tables as one file: what the changelog says up to an offset, so that restoring reads only what follows.

A magic, the header as JSON, blocks of entries as msgpack, each with its length in front, a length of 0, and a digest of
all that. What cannot be read for any reason is no error: the changelog has everything.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from streamproc.core.state import Tables

MAGIC: Final = b"streamproc state 2\n"
"""It ends in the version of the layout."""
SUFFIX: Final = ".state"
NAME: Final = re.compile(r"(?P<app>.+)\.[^.]+\.\d+\.state(?P<unfinished>\..+)?", re.S)
LENGTH_BYTES: Final = 4
DIGEST_BYTES: Final = 16
MOST_HEADER: Final = 1 << 16
BLOCK_BYTES: Final = 1 << 20
"""A block is closed when its keys and values are so many: each is encoded at once, and nothing else runs meanwhile."""

Entries = Mapping[str, Mapping[bytes, bytes]]


class Header(msgspec.Struct, frozen=True):
    """Whose state it is, and as of when.

    The tables hold what is committed in the changelog, the topic with that id, before ``offset``; there may be more in
    them. ``time``, in seconds since the epoch, is when the changelog was seen to have no more. ``tables`` are their
    names. ``epoch`` is one that the changelog's leader had before it gave or took the last of this.
    """

    app: str
    agent: str
    partition: int
    topic_id: str
    offset: int
    time: float
    tables: list[str]
    epoch: int


class Unusable(Exception):
    """Why a file is left aside."""


class _Block(msgspec.Struct, array_like=True):
    table: str
    entries: dict[bytes, bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode_block = msgspec.msgpack.Decoder(_Block).decode
_decode_header = msgspec.json.Decoder(Header).decode


def write(path: Path, header: Header, entries: Entries, pause: float = 0.0) -> int:
    """Replace the file, or leave it as it was; how many bytes it has. Raises OSError.

    Sleeps so many seconds after each block: it is for a thread beside others.
    """
    # A process id would not do: it is 1 in every container, and the same in all threads.
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            digest = blake2b(digest_size=DIGEST_BYTES)
            for part in _parts(header, entries):
                digest.update(part)
                file.write(part)
                if pause:
                    time.sleep(pause)
            file.write(digest.digest())
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name too
    finally:
        os.close(folder)
    return size


def _parts(header: Header, entries: Entries) -> Iterator[bytes]:
    yield MAGIC + _framed(msgspec.json.encode(header))
    for table, whole in entries.items():
        block, size = dict[bytes, bytes](), 0
        for key, value in whole.items():
            block[key] = value
            size += len(key) + len(value)
            if size >= BLOCK_BYTES:
                yield _framed(_encode(_Block(table, block)))
                block, size = {}, 0
        if block:
            yield _framed(_encode(_Block(table, block)))
    yield _framed(b"")


def _framed(raw: bytes) -> bytes:
    return len(raw).to_bytes(LENGTH_BYTES, "big") + raw


def read(
    path: Path, fits: Callable[[Header], str | None], progress: Callable[[], object] = lambda: None
) -> tuple[Header, Tables] | None:
    """What a file holds; ``None`` where there is none. ``fits`` says what is wrong with a header.

    Raises Unusable for any other reason not to use it. Reads one block at a time, never more than the file has, and
    calls ``progress`` after each.
    """
    try:
        with path.open("rb") as file:
            left, digest = os.fstat(file.fileno()).st_size - DIGEST_BYTES, blake2b(digest_size=DIGEST_BYTES)

            def take(count: int, most: int) -> bytes:
                nonlocal left
                if count > min(left, most):
                    raise Unusable("it is cut off, or damaged")
                left -= count
                raw = file.read(count)
                digest.update(raw)
                return raw

            if take(len(MAGIC), len(MAGIC)) != MAGIC:
                raise Unusable("it is of another version")
            header = _decode_header(take(int.from_bytes(take(LENGTH_BYTES, LENGTH_BYTES), "big"), MOST_HEADER))
            if (wrong := fits(header)) is not None:
                raise Unusable(wrong)
            tables = Tables(header.tables)
            while length := int.from_bytes(take(LENGTH_BYTES, LENGTH_BYTES), "big"):
                block = _decode_block(take(length, left))
                tables.apply({block.table: block.entries})
                progress()
            if left or file.read(DIGEST_BYTES + 1) != digest.digest():
                raise Unusable("it is damaged")
            return header, tables
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, KeyError, UnicodeDecodeError) as error:
        raise Unusable(f"it cannot be read: {type(error).__name__}") from error


def path_of(folder: Path, app: str, agent: str, partition: int) -> Path:
    """Where the checkpoint of a lane is. Only the application's name has dots in it there."""
    return folder / f"{app}.{agent.replace('.', '%2E')}.{partition}{SUFFIX}"


def remove_old(folder: Path, app: str, before: float, unfinished: float | None = None) -> int:
    """Remove an application's files that nobody has written since; how many. Raises OSError where nobody can look.

    ``unfinished`` is the time for what is left of files that were never finished, the same unless stated.
    """
    removed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            name = NAME.fullmatch(entry.name)
            if name is None or name["app"] != app:
                continue
            limit = before if name["unfinished"] is None or unfinished is None else unfinished
            with contextlib.suppress(OSError):  # somebody else removed it
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < limit:
                    Path(entry.path).unlink()
                    removed += 1
    return removed
