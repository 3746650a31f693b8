"""Lane state in memory: the committed tables, and a view of them with changes that are not committed yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streamproc.core.processor import Changes

SEPARATOR = b"\x00"
LANE_TABLE = ""
"""The table that every lane has besides its agent's: what the lane must remember about itself."""


class Tables:
    """The committed tables of one lane. Values are bytes and carry their own format version."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {name: {} for name in names}

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """One value per key. Raises KeyError for a table that was not declared."""
        return list(map(self._tables[table].get, keys))

    def apply(self, changes: Changes) -> None:
        """Take over the changes of a committed batch; ``None`` deletes."""
        for name, entries in changes.items():
            table = self._tables[name]
            for key, value in entries.items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Every entry of one table, in no particular order."""
        return iter(self._tables[table].items())

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))


class Overlay:
    """Committed tables seen through the changes of batches that are finished but not committed, oldest first."""

    def __init__(self, tables: Tables, pending: Sequence[Changes]) -> None:
        self._tables = tables
        self._pending = [changes for changes in pending if changes]

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """One value per key, the youngest change first."""
        if not self._pending:
            return self._tables.get_many(table, keys)
        layers = [changes[table] for changes in reversed(self._pending) if table in changes]
        values = self._tables.get_many(table, keys)
        for index, key in enumerate(keys):
            for layer in layers:
                if key in layer:
                    values[index] = layer[key]
                    break
        return values


def changelog_key(table: str, key: bytes) -> bytes:
    """The key of a table's entry on its agent's one changelog topic."""
    return table.encode() + SEPARATOR + key


def split_changelog_key(raw: bytes) -> tuple[str, bytes]:
    """The inverse of ``changelog_key``.

    >>> split_changelog_key(changelog_key("counts", b"a\\x00b"))
    ('counts', b'a\\x00b')
    """
    table, _, key = raw.partition(SEPARATOR)
    return table.decode(), key
