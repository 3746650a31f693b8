"""The contract: the JSON Schema that an event must satisfy, and the typed columns that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import orjson
import polars as pl

from streamproc.core.records import DeadLetter
from streamproc.errors import UserError

STAGE = "contract"
DTYPES: Mapping[str, pl.DataType] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
}
INT64 = range(-(2**63), 2**63)
DEEPEST = 8
DEEPEST_EVENT = 250
"""Levels of objects and arrays that an event may have: orjson reads 1,024 of them and writes 254."""


@dataclass(frozen=True, slots=True)
class Field:
    """A scalar of the event as a column. Nested ones are named with dots: ``address.city``."""

    name: str
    path: tuple[str, ...]
    dtype: pl.DataType


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
        self.fields = tuple(_fields(schema, schema, ()))
        if not self.fields:
            raise UserError(
                "the contract describes no scalar field",
                "list the event's fields under `properties`, with a `type`",
            )

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

    def explain(self, event: Any) -> DeadLetter:
        """Why the event does not satisfy the contract: the first error, with its place. Values are left out."""
        for error in self._validator.iter_errors(event):
            keyword = str(error.schema_path[-1]) if error.schema_path else "schema"
            named = next((part for part in reversed(error.schema_path) if isinstance(part, str)), keyword)
            return DeadLetter(STAGE, f"contract_{named}", json_path(error.instance_path), _without_values(error))
        raise AssertionError("a valid event needs no explanation")

    def frame(self, events: Sequence[Any]) -> tuple[pl.DataFrame, dict[int, DeadLetter]]:
        """Columns of valid events, one row each, and the rows that no column can hold (null there), by row number."""
        columns, refused = [], dict[int, DeadLetter]()
        for field in self.fields:
            values = _values(events, field.path)
            try:
                column = pl.Series(field.name, values, dtype=field.dtype)
            except (TypeError, OverflowError):
                column = pl.Series(field.name, _coerce(values, field, refused), dtype=field.dtype)
            columns.append(column)
        return pl.DataFrame(columns, height=len(events)), refused


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


def _fields(schema: Any, root: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Field]:
    if len(path) > DEEPEST:
        return
    schema = _resolve(schema, root)
    for name, child in (schema.get("properties") or {}).items():
        inner, here = _resolve(child, root), (*path, name)
        kinds = _kinds(inner)
        if kinds == {"object"}:
            yield from _fields(inner, root, here)
        elif kinds <= {"integer", "number"} and kinds:
            yield Field(".".join(here), here, DTYPES["number" if "number" in kinds else "integer"])
        elif len(kinds) == 1 and (kind := next(iter(kinds))) in DTYPES:
            yield Field(".".join(here), here, DTYPES[kind])


def _resolve(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    seen = 0
    while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str) and seen < DEEPEST:
        target: Any = root
        for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
            if part:
                target = target.get(part.replace("~1", "/").replace("~0", "~"), {})
        schema, seen = target, seen + 1
    return schema if isinstance(schema, Mapping) else {}


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a value can have, null aside; empty where the schema does not say."""
    stated = schema.get("type")
    if isinstance(stated, str):
        return {stated} - {"null"}
    if isinstance(stated, list):
        return set(stated) - {"null"}
    constants = [schema["const"]] if "const" in schema else schema.get("enum", [])
    if constants:
        return {_kind(value) for value in constants} - {"null"}
    options = [_kinds(option) for key in ("anyOf", "oneOf") for option in schema.get(key, [])]
    return set().union(*options)


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}
    return names.get(type(value), "null")


def _values(events: Sequence[Any], path: tuple[str, ...]) -> list[Any]:
    if len(path) == 1:
        name = path[0]
        return [event.get(name) if type(event) is dict else None for event in events]
    return [_dig(event, path) for event in events]


def _dig(event: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if type(event) is not dict:
            return None
        event = event.get(name)
    return event


def _coerce(values: list[Any], field: Field, refused: dict[int, DeadLetter]) -> list[Any]:
    """What one slow look at each value makes of a column that Polars would not build at once."""
    result = []
    for row, value in enumerate(values):
        fitting = _fit(value, field.dtype)
        if fitting is None and value is not None:
            reason = "integer_out_of_range" if field.dtype == pl.Int64 else "type_not_in_contract"
            refused.setdefault(row, DeadLetter(STAGE, reason, json_path(field.path), f"no {field.dtype}"))
        result.append(fitting)
    return result


def _fit(value: Any, dtype: pl.DataType) -> Any:
    kind = type(value)
    if dtype == pl.Int64:
        if kind not in (int, float) or value != int(value) or int(value) not in INT64:
            return None
        # orjson reads integers below -2**63 as doubles, and the next of those is -2**63 itself
        return None if kind is float and int(value) == INT64.start else int(value)
    if dtype == pl.Float64:
        return float(value) if kind in (int, float) else None
    if dtype == pl.Boolean:
        return value if kind is bool else None
    return value if kind is str else None


def json_path(path: Sequence[str | int]) -> str:
    """A JSON path from its parts.

    >>> json_path(["items", 3, "price"])
    '$.items[3].price'
    """
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


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
