"""What came true, as the rows of a reference say it in a field of their own that no event has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from streamproc.core.drift.bins import Floats
from streamproc.errors import UserError
from streamproc.row_fields import taken


class Outcomes:
    """Takes the field out of rows before they are decided, as a contract may refuse it, and keeps its values.

    ``keep`` leaves it in the rows too: for a field that the contract has. ``of`` what the rows are, for people.
    """

    def __init__(self, field: str, *, keep: bool, of: str = "the reference") -> None:
        self._field, self._keep, self._of = field, keep, of
        self._known = list[float]()
        self.there = False
        """Whether any row had the field."""

    def take(self, rows: Sequence[bytes]) -> list[bytes]:
        """The rows without the field. Raises UserError where its value is no truth value."""
        return [self._without(row) for row in rows]

    def known(self) -> Floats:
        """1, 0, or NaN where it is not known, for each row that was taken, be it an event or none, shape (rows,).

        Raises UserError where no row has the field.
        """
        if not self.there:
            message = f"no row of {self._of} has a field `{self._field}`"
            raise UserError(message, "`drift.outcome` names the field that says what came true")
        return np.array(self._known)

    def _without(self, row: bytes) -> bytes:
        one = taken(row, self._field, keep=self._keep)
        self.there |= one.there
        self._known.append(self._number(one.value))
        return one.row

    def _number(self, value: object) -> float:
        if value is None:
            return math.nan
        if isinstance(value, bool | int | float) and value in (0, 1):
            return float(value)
        message = (
            f"row {len(self._known):,} of {self._of}, counted from 0, has a `{self._field}` that is no truth value"
        )
        raise UserError(message, "an outcome is true or false, 1 or 0, or missing where it is not known")
