"""Rows of a table: checked by its contract, and as small as what is read of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from streamproc.core.contract import Contract
from streamproc.core.records import DeadLetter

Row: TypeAlias = "tuple[Any, ...]"
MOST_SHARED = 1 << 16
"""So many texts of a field are kept once, however many rows have them."""


@dataclass(frozen=True, slots=True)
class Changes:
    """By key the newest row, ``None`` for one that is none any more; and why records were refused, by their number."""

    rows: dict[bytes, Row | None]
    refused: dict[int, DeadLetter]


class RowReader:
    """Makes rows of records: tuples of the values of ``fields``, in that order, ``None`` for one without."""

    def __init__(self, contract: Contract, fields: Sequence[str]) -> None:
        self._contract, self._fields = contract, tuple(fields)
        self._shared: list[dict[str, str]] = [{} for _ in fields]

    def changes(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Changes:
        """What records change, of each key the last one; a tombstone takes a row away.

        So does a value that the contract refuses: the row before it is not what holds any more. Records without a key
        are nothing to a table.
        """
        last = {key: number for number, key in enumerate(keys) if key is not None}
        rows: dict[bytes, Row | None] = dict.fromkeys(last)
        kept = [(key, number) for key, number in last.items() if values[number] is not None]
        made, refused = self.read([values[number] for _, number in kept])
        for (key, _), row in zip(kept, made, strict=True):
            rows[key] = row
        return Changes(rows, {kept[place][1]: letter for place, letter in refused.items()})

    def read(self, values: Sequence[bytes | None]) -> tuple[list[Row | None], dict[int, DeadLetter]]:
        """A row for each value, ``None`` for those that are refused, and why those are, by their number."""
        reading = self._contract.read(values)
        columns = [reading.columns[name].to_list() for name in self._fields]
        shared = [_once(column, known) for column, known in zip(columns, self._shared, strict=True)]
        rows: list[Row | None] = list(zip(*shared, strict=True))
        if reading.refused:
            made = iter(rows)
            rows = [None if number in reading.refused else next(made) for number in range(len(values))]
        return rows, reading.refused


def _once(column: list[Any], known: dict[str, str]) -> list[Any]:
    """The same values, with one object for texts that are equal."""
    if not isinstance(next((one for one in column if one is not None), None), str):
        return column
    if len(known) > MOST_SHARED:
        return [known.get(one, one) for one in column]
    return [None if one is None else known.setdefault(one, one) for one in column]
