"""What one lane remembers for windows: a value for each key, when it forgets one, and which layouts it wrote.

A key is forgotten when it was not seen for the time to live; its value may stay in the table for longer, until a sweep
comes by. Where there are too many keys, the least recently used ones leave, at fixed numbers of events, so that it does
not matter how events fall into batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Final

import msgspec
import numpy as np

from streamproc.core.processor import State
from streamproc.core.versioned import read_kept
from streamproc.core.windows.kept import NEVER
from streamproc.core.windows.layout import HEAD, ID_BYTES, WORD, Layout
from streamproc.core.windows.scan import Ints

TABLE: Final = "windows"
META: Final = b""
VERSION: Final = 1
EVERY: Final = 4_096
"""Events of a lane between two looks at whether there are too many keys."""
SWEEPS: Final = 16
"""A sweep looks at such a part of the keys."""
LEAVE: Final = 16
"""Where there are too many keys, such a part of those allowed leaves at once."""
SEPARATOR: Final = "\x00"


class Meta(msgspec.Struct, array_like=True):
    """``clock`` is the newest time of an event, in microseconds, ``events`` counts them; ``layouts`` are those in which
    anything may still be kept: no more than the windows were changed while a key is remembered; ``swept`` is the event,
    and ``cursor`` the key, after which the last sweep ended."""

    version: int = VERSION
    clock: int = int(NEVER)
    events: int = 0
    swept: int = 0
    cursor: int = 0
    layouts: list[Layout] = msgspec.field(default_factory=list)


_encode = msgspec.msgpack.Encoder().encode


class LaneMemory:
    """A lane's table while a batch is worked on."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._changes: dict[bytes, bytes | None] = {}
        self._more_layouts = False
        [raw] = state.get_many(TABLE, [META])
        self.meta = Meta() if raw is None else read_kept(raw, Meta, VERSION, "what a lane keeps for windows")

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, in whatever layouts they are."""
        values = self._state.get_many(TABLE, keys)
        if self._changes:
            changes = self._changes
            values = [changes.get(key, value) for key, value in zip(keys, values, strict=True)]
        return values

    def write(self, entries: Mapping[bytes, bytes], layout: Layout) -> None:
        """Remember keys, in this layout."""
        if layout not in self.meta.layouts:
            self.meta.layouts.append(layout)
            self._more_layouts = True
        self._changes.update(entries)

    def could_exceed(self, most: int, more: int) -> bool:
        """Whether there could be too many keys with so many more."""
        return self._state.count(TABLE) + more > most

    def leave(self, most: int, ttl: int) -> int:
        """Let the least recently used keys go where more than ``most`` are not forgotten. How many of those went."""
        if not self.could_exceed(most, len(self._changes)):
            return 0
        own = [(key, value) for key, value in self._changes.items() if value is not None]
        others = [entry for entry in self._state.items(TABLE) if entry[0] not in self._changes]
        keys, clocks = _clocks([*others, *own])
        forgotten = int((clocks < self.meta.clock - ttl).sum())
        if len(keys) - forgotten <= most:
            return 0
        going = len(keys) - most + most // LEAVE
        order = np.lexsort((_places(keys), clocks))[:going]
        self._changes.update(dict.fromkeys([keys[place] for place in order.tolist()]))
        return going - forgotten

    def sweep(self, ttl: int) -> None:
        """Let go of keys that are forgotten, a part of all at a time."""
        meta, count = self.meta, self._state.count(TABLE)
        if meta.events - meta.swept < max(EVERY, count):
            return
        size = max(EVERY, count // SWEEPS)
        keys, clocks = _clocks(list(islice(self._state.items(TABLE), meta.cursor, meta.cursor + size)))
        old = [keys[place] for place in np.flatnonzero(clocks < meta.clock - ttl).tolist()]
        old = [key for key in old if key not in self._changes]
        self._changes.update(dict.fromkeys(old))
        meta.swept = meta.events
        meta.cursor = meta.cursor + size - len(old) if meta.cursor + size < count else 0

    def changes(self) -> Mapping[bytes, bytes | None]:
        """What the batch changes of the table."""
        if self._more_layouts:
            self._drop_layouts()
        return {**self._changes, META: _encode(self.meta)}

    def _drop_layouts(self) -> None:
        """Let go of the layouts that no value is in any more. It looks at all values, and so only when there are more
        layouts than before: when the windows have changed."""
        values = chain(
            (value for key, value in self._state.items(TABLE) if key != META and key not in self._changes),
            (value for value in self._changes.values() if value is not None),
        )
        used = {value[:ID_BYTES] for value in values}
        self.meta.layouts = [one for one in self.meta.layouts if one.id.to_bytes(ID_BYTES, "little") in used]
        self._more_layouts = False


def _clocks(entries: Sequence[tuple[bytes, bytes]]) -> tuple[list[bytes], Ints]:
    """Keys of a table, and their newest times."""
    entries = [entry for entry in entries if entry[0] != META]
    heads = b"".join([value[: HEAD * WORD] for _, value in entries])
    return [key for key, _ in entries], np.frombuffer(heads, "<i8")[1::HEAD]


def _places(keys: Sequence[bytes]) -> Ints:
    """The places of keys in their order: of those that were used last at one time, the first ones leave."""
    places = np.empty(len(keys), np.int64)
    places[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return places


def key_prefix(by: str) -> str:
    """What keys of one ``by`` begin with."""
    return by + SEPARATOR
