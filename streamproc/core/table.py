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
class ReadRows:
    """``rows`` has one entry per value, ``None`` for one that was refused; ``refused`` says why, by its number."""

    rows: list[Row | None]
    refused: dict[int, DeadLetter]


class RowReader:
    """Makes rows of records' values: tuples of the values of ``fields``, in that order, ``None`` for one without."""

    def __init__(self, contract: Contract, fields: Sequence[str]) -> None:
        self._contract, self._fields = contract, tuple(fields)
        self._shared: list[dict[str, str]] = [{} for _ in fields]

    def read(self, values: Sequence[bytes]) -> ReadRows:
        """The rows of values, none of which is a tombstone."""
        reading = self._contract.read(values)
        columns = [reading.columns[name].to_list() for name in self._fields]
        shared = [_once(column, known) for column, known in zip(columns, self._shared, strict=True)]
        made = list(zip(*shared, strict=True)) if shared else [()] * len(reading.rows)
        if not reading.refused:
            return ReadRows(list(made), {})
        rows: list[Row | None] = [None] * len(values)
        for number, row in zip(reading.rows.tolist(), made, strict=True):
            rows[number] = row
        return ReadRows(rows, reading.refused)


def _once(column: list[Any], known: dict[str, str]) -> list[Any]:
    """The same values, with one object for texts that are equal."""
    if not column or not isinstance(next((one for one in column if one is not None), None), str):
        return column
    if len(known) > MOST_SHARED:
        return [known.get(one, one) for one in column]
    return [None if one is None else known.setdefault(one, one) for one in column]
