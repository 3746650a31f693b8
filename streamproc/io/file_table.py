"""A table that was read from a file: its newest rows, or those that held when an event happened."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from streamproc.core.names import NO_SUCH_KEY
from streamproc.core.processor import Answer, Lookup
from streamproc.core.table import Row


class FileTable:
    """Rows by key. With ``times``, in µs since the epoch, a row holds from its time on, and up to the next one's."""

    def __init__(
        self, keys: Sequence[bytes], rows: Sequence[Row | None], times: Sequence[int] | None, version: str
    ) -> None:
        """Of rows with one key and one time the last one counts; ``None`` says that the key has no row from then on."""
        order = range(len(keys)) if times is None else sorted(range(len(keys)), key=times.__getitem__)
        self._version = version
        self._rows: dict[bytes, list[Row | None]] = {}
        self._times: dict[bytes, list[int]] | None = None if times is None else {}
        for number in order:
            self._rows.setdefault(keys[number], []).append(rows[number])
            if self._times is not None and times is not None:
                self._times.setdefault(keys[number], []).append(times[number])

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    async def __call__(self, ask: Lookup) -> Answer:
        """One entry per key."""
        return self.now(ask)

    def now(self, ask: Lookup) -> Answer:
        """The row of each key as it was at the ask's time for it; the newest where it has none."""
        if self._times is None or ask.times is None:
            values = [self._newest(key) for key in ask.keys]
        else:
            pairs = zip(ask.keys, ask.times.tolist(), strict=True)
            values = [self._as_of(self._times, key, time) for key, time in pairs]
        return Answer(values, [NO_SUCH_KEY if row is None else None for row in values], self._version)

    def _newest(self, key: bytes) -> Row | None:
        rows = self._rows.get(key)
        return None if rows is None else rows[-1]

    def _as_of(self, times: dict[bytes, list[int]], key: bytes, time: int) -> Row | None:
        begins = times.get(key)
        if begins is None:
            return None
        place = bisect_right(begins, time)
        return self._rows[key][place - 1] if place else None
