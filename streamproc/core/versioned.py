"""What lanes keep: structs as msgpack arrays, whose first field is the version of their layout, and numbered keys."""

from __future__ import annotations

import struct
from typing import TypeVar

import msgspec

Kept = TypeVar("Kept")


class _Head(msgspec.Struct, array_like=True):
    version: int


_read_head = msgspec.msgpack.Decoder(_Head).decode


def read_kept(raw: bytes, kind: type[Kept], version: int, what: str) -> Kept:
    """The struct of a value. Raises ValueError where it is of another version of this program: then its fields may
    mean something else, so the version is read before them. ``what`` is its name for people."""
    found = _read_head(raw).version
    if found != version:
        raise ValueError(f"{what} of version {found} is met, and this is for version {version}")
    return msgspec.msgpack.decode(raw, type=kind)


def numbered(kind: bytes, *numbers: int) -> bytes:
    """The key of one of many values of a kind."""
    return kind + struct.pack(f">{'q' * len(numbers)}", *numbers)
