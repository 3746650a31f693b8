"""The contract itself: checks events, and makes columns of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from streamproc.core.contract.fields import Field, fields_of, fit, json_path, values_of
from streamproc.core.contract.quick import EXACT, TROUBLE, Quick
from streamproc.core.records import DeadLetter
from streamproc.errors import UserError

STAGE = "contract"
DEEPEST_EVENT = 250
"""Levels of objects and arrays that an event may have: orjson reads 1,024 of them and writes 254."""
SEVERAL = 16
"""From so many values on, to make columns of them costs less than to look at each."""
FEW = 64
"""So many doubtful events are not yet a reason to give up the quick way for a batch."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a contract makes of values: row ``i`` of ``columns`` is value ``rows[i]``, the others are ``refused``.

    ``rows`` is ascending, shape (n,); ``refused`` has the dead letters by the number of their value.
    """

    rows: NDArray[np.int64]
    columns: pl.DataFrame
    refused: dict[int, DeadLetter]


class Contract:
    """A JSON Schema, ready to check events with.

    Only what the schema describes becomes a column; other fields pass through in the event, if the schema lets them.
    Raises UserError for a schema that is none, or that points outside itself.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        try:
            self._validator = jsonschema_rs.validator_for(dict(schema), retriever=_refuse)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise UserError(f"not a usable JSON Schema: {str(error).splitlines()[0]}") from error
        self.fields = tuple(fields_of(schema, schema))
        if not self.fields:
            raise UserError(
                "the contract describes no scalar field",
                "list the event's fields under `properties`, with a `type`",
            )
        self._quick = Quick.of(schema)

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """The type of each column."""
        return {field.name: field.dtype for field in self.fields}

    def decode(self, value: bytes | None) -> Any | DeadLetter:
        """One event as Python values, or why it is none.

        A duplicate key counts with its last value. Numbers that no double can hold are refused, and so is what is
        nested more than ``DEEPEST_EVENT`` levels deep. docs/records.md lists the odd cases.
        """
        if value is None:
            return DeadLetter(STAGE, "tombstone", detail="the record has no value")
        try:
            event = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            return DeadLetter(STAGE, _json_reason(value), detail=f"{error.msg} (byte {error.pos})")
        if _may_be_deep(value) and _is_deep(event):
            return DeadLetter(STAGE, "nested_too_deeply", detail=f"more than {DEEPEST_EVENT} levels")
        try:
            if self._validator.is_valid(event):
                return event
        except ValueError as error:
            return DeadLetter(STAGE, "nested_too_deeply", detail=str(error)[:200])
        return self.explain(event)

    def check(self, value: bytes | None) -> Any | DeadLetter:
        """``decode``, and whether the columns can hold the values: what ``read`` says of one event, without columns."""
        event = self.decode(value)
        if type(event) is DeadLetter:
            return event
        for field in self.fields:
            [found] = values_of([event], field.path)
            if found is not None and fit(found, field.dtype) is None:
                return _unfit(field)
        return event

    def explain(self, event: Any) -> DeadLetter:
        """Why the event does not satisfy the contract: the first error, with its place. Values are left out."""
        for error in self._validator.iter_errors(event):
            keyword = str(error.schema_path[-1]) if error.schema_path else "schema"
            named = next((part for part in reversed(error.schema_path) if isinstance(part, str)), keyword)
            return DeadLetter(STAGE, f"contract_{named}", json_path(error.instance_path), _without_values(error))
        raise AssertionError("a valid event needs no explanation")

    def read(self, values: Sequence[bytes | None]) -> Reading:
        """Check values and make columns of the valid events."""
        rows, _, columns, bad, refused = self._checked(values)
        frame = pl.DataFrame(columns, height=len(rows))
        if not bad:
            return Reading(rows, frame, refused)
        kept = _without(np.arange(len(rows)), bad)
        return Reading(rows[kept], frame[kept], refused)

    def pick(
        self, values: Sequence[bytes | None], wanted: Sequence[tuple[str, ...]]
    ) -> tuple[list[int], list[list[Any]], dict[int, DeadLetter]]:
        """Check values, and give what stands in the valid events at some paths, as ``check`` would decode it.

        The numbers of the valid values, ascending; for each path one value for each of them; and why the others are
        refused.
        """
        if len(values) < SEVERAL:
            return self._pick_one_by_one(values, wanted)
        rows, of_fields, _, bad, refused = self._checked(values)
        places = {field.path: place for place, field in enumerate(self.fields)}
        picked = [of_fields[places[path]] for path in wanted]
        if bad:
            kept = _without(np.arange(len(rows)), bad).tolist()
            rows, picked = rows[kept], [[several[row] for row in kept] for several in picked]
        numbers = rows.tolist()
        for path, several in zip(wanted, picked, strict=True):
            for row, value in enumerate(several):
                if type(value) is float and not -EXACT < value < EXACT:  # the quick way made it of an integer, maybe
                    [several[row]] = values_of([self.decode(values[numbers[row]])], path)
        return numbers, picked, refused

    def _pick_one_by_one(
        self, values: Sequence[bytes | None], wanted: Sequence[tuple[str, ...]]
    ) -> tuple[list[int], list[list[Any]], dict[int, DeadLetter]]:
        found = [self.check(value) for value in values]
        refused = {number: one for number, one in enumerate(found) if type(one) is DeadLetter}
        numbers = [number for number in range(len(values)) if number not in refused]
        events = [found[number] for number in numbers]
        return numbers, [values_of(events, path) for path in wanted], refused

    def _checked(
        self, values: Sequence[bytes | None]
    ) -> tuple[NDArray[np.int64], list[list[Any]], list[pl.Series], list[int], dict[int, DeadLetter]]:
        """The numbers of values that can be decoded; their fields, as they were decoded and as columns; which of these
        rows break the contract; and everything that is refused."""
        events, refused = self._events(values)
        rows = _without(np.arange(len(values)), refused)
        of_fields = self._values(events)
        columns, fitting, unfit = [], [], dict[int, DeadLetter]()
        for field, of_field in zip(self.fields, of_fields, strict=True):
            column, fitted = _column(field, of_field, unfit)
            columns.append(column)
            fitting.append(fitted)
        doubtful = set(unfit)
        if self._quick is not None:
            doubtful.update(self._quick.doubtful(fitting, columns).tolist())
        bad = []
        for row in sorted(doubtful):
            number = int(rows[row])
            found = self.decode(values[number])
            letter = found if type(found) is DeadLetter else unfit.get(row)
            if letter is not None:
                refused[number] = letter
                bad.append(row)
        return rows, of_fields, columns, bad, refused

    def _events(self, values: Sequence[bytes | None]) -> tuple[list[Any], dict[int, DeadLetter]]:
        """The events that are not refused, as the quick way has them where there is one."""
        events, refused = list[Any](), dict[int, DeadLetter]()
        quick, numbered = self._quick, enumerate(values)

        def slowly(number: int, value: bytes | None) -> None:
            event = self.decode(value)
            if type(event) is DeadLetter:
                refused[number] = event
            else:
                events.append(event if quick is None else quick.make(event))

        if quick is not None:
            decode, append, failed = quick.decode, events.append, 0
            for number, value in numbered:
                try:
                    append(decode(value))
                except TROUBLE:
                    slowly(number, value)
                    failed += 1
                    if failed > FEW and 2 * failed > number:
                        break  # most would be read twice
        for number, value in numbered:
            slowly(number, value)
        return events, refused

    def _values(self, events: Sequence[Any]) -> list[list[Any]]:
        if self._quick is not None:
            return self._quick.columns(events)
        return [values_of(events, field.path) for field in self.fields]


def _without(numbers: NDArray[np.int64], places: Collection[int]) -> NDArray[np.int64]:
    return np.delete(numbers, np.fromiter(places, np.int64, len(places))) if places else numbers


def _column(field: Field, values: list[Any], unfit: dict[int, DeadLetter]) -> tuple[pl.Series, list[Any]]:
    """The values as a column, and as a list; those that the column cannot hold are null, and noted by row."""
    try:
        return pl.Series(field.name, values, dtype=field.dtype), values
    except (TypeError, OverflowError):
        fitting = [fit(value, field.dtype) for value in values]
    for row, (value, fitted) in enumerate(zip(values, fitting, strict=True)):
        if fitted is None and value is not None:
            unfit.setdefault(row, _unfit(field))
    return pl.Series(field.name, fitting, dtype=field.dtype), fitting


def _unfit(field: Field) -> DeadLetter:
    reason = "integer_out_of_range" if field.dtype == pl.Int64 else "type_not_in_contract"
    return DeadLetter(STAGE, reason, json_path(field.path), f"no {field.dtype}")


def _may_be_deep(value: bytes) -> bool:
    """Whether there are enough brackets; each level has two, and most events are too short for that."""
    return len(value) > 2 * DEEPEST_EVENT and value.count(b"{") + value.count(b"[") > DEEPEST_EVENT


def _is_deep(event: Any) -> bool:
    level = [event]
    for _ in range(DEEPEST_EVENT):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)


def _inside(value: Any) -> Iterable[Any]:
    if type(value) is dict:
        return value.values()
    return value if type(value) is list else ()


def _refuse(uri: str) -> Any:
    raise ValueError(f"the contract points outside itself, to {uri}: nothing is fetched; put it under $defs")


def _json_reason(value: bytes) -> str:
    if not value:
        return "empty"
    try:
        value.decode()
    except UnicodeDecodeError:
        return "not_utf8"
    return "not_json"


def _without_values(error: Any) -> str:
    """The error's text without the event's own values: those stay in the dead letter's body."""
    where = "/".join(map(str, error.schema_path))
    rule = getattr(error.kind, "limit", None)
    return f"does not satisfy {where}" + (f" ({rule})" if isinstance(rule, int | float) else "")
