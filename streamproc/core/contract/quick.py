"""Events that are surely valid, read several times as fast as the validator could say so. All others are left to it.

msgspec decodes an event and checks the types of its fields in one go; what the schema says of their values is checked
a column at a time. That is possible for schemas of plain objects and scalars. An event with a field that its contract
does not describe, or with anything else that is out of the ordinary, counts as doubtful: the validator decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

import jsonschema_rs
import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.contract.fields import DEEPEST, kinds, resolve, scalar_kind

TYPES: Mapping[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}
SAYING_NOTHING = frozenset(
    {"$comment", "$defs", "definitions", "title", "description", "examples", "default", "deprecated"}
)
OF_ROOT = frozenset({"$schema", "$id"})
"""Below the root these change what the rest means."""
OF_OBJECTS = SAYING_NOTHING | {"type", "required", "properties", "additionalProperties"}
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
LENGTHS = frozenset({"minLength", "maxLength"})
BY_VALUE = frozenset({"enum", "const", "multipleOf", "pattern", "format"})
EXACT = 2**53
"""Below this a double holds every integer."""
LONGEST = 2**31

TROUBLE = (msgspec.MsgspecError, UnicodeDecodeError, TypeError, RecursionError)

Rows: TypeAlias = NDArray[np.bool_]
Check: TypeAlias = Callable[[Sequence[Any], pl.Series], "Rows | None"]
"""From a field's values, and the same as a column, to the rows in doubt, shape (n,); ``None`` where there are none."""


@dataclass(frozen=True, slots=True)
class Property:
    """One property of an object. ``inner`` is its own shape where it is an object; ``attribute`` is its place."""

    name: str
    attribute: str
    type: Any
    optional: bool
    inner: Shape | None = None
    check: Check | None = None


class Shape:
    """A class of events, or of objects in them, with an attribute for each property."""

    def __init__(self, properties: Sequence[Property]) -> None:
        self.properties = tuple(properties)
        given = {one.attribute: one.name for one in properties}
        fields = [(one.attribute, one.type, None) if one.optional else (one.attribute, one.type) for one in properties]
        options: dict[str, Any] = {"rename": given, "kw_only": True, "forbid_unknown_fields": True, "gc": False}
        try:
            self.type: Any = msgspec.defstruct("Event", fields, **options)
        except ValueError as error:  # a name that it does not take
            raise Unsupported from error

    def make(self, event: Any) -> Any:
        """The same from an event that was decoded and found valid elsewhere. Its types are not looked at."""
        given = event if type(event) is dict else {}
        return self.type(**{one.attribute: self._inner(one, given.get(one.name)) for one in self.properties})

    @staticmethod
    def _inner(one: Property, value: Any) -> Any:
        return value if one.inner is None or value is None else one.inner.make(value)

    def columns(self, events: Sequence[Any]) -> Iterator[tuple[Property, list[Any]]]:
        """The values of every scalar, in the order of ``fields_of``. An event may be ``None``."""
        holes = None in events
        for one in self.properties:
            get = attrgetter(one.attribute)
            values = [None if event is None else get(event) for event in events] if holes else list(map(get, events))
            if one.inner is None:
                yield one, values
            else:
                yield from one.inner.columns(values)


class Quick:
    """Reads what is surely valid under one schema."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.decode: Callable[[Any], Any] = msgspec.json.Decoder(shape.type).decode
        """An event as an object with attributes. Raises one of ``TROUBLE`` for what is doubtful."""
        self.make = shape.make

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> Quick | None:
        """The quick way of a schema, or ``None`` where it says more than can be checked here."""
        try:
            return cls(_shape(schema, schema, 0))
        except Unsupported:
            return None

    def columns(self, events: Sequence[Any]) -> list[list[Any]]:
        """The values of every field of the contract, in the contract's order."""
        return [values for _, values in self._shape.columns(events)]

    def doubtful(self, values: Sequence[Sequence[Any]], columns: Sequence[pl.Series]) -> NDArray[np.int64]:
        """The rows that may break the contract, ascending."""
        found: Rows | None = None
        checks = [one.check for one, _ in self._shape.columns([])]
        for check, given, column in zip(checks, values, columns, strict=True):
            rows = None if check is None else check(given, column)
            if rows is not None:
                found = rows if found is None else found | rows
        return np.empty(0, np.int64) if found is None else np.flatnonzero(found)


class Unsupported(Exception):
    """The schema says something that only the validator can check."""


def _shape(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Shape:
    described, required = schema.get("properties") or {}, schema.get("required", [])
    known = OF_OBJECTS if depth else OF_OBJECTS | OF_ROOT
    if schema.keys() - known or depth > DEEPEST or not isinstance(required, list):
        raise Unsupported
    if "type" in schema and kinds(schema) != {"object"}:
        raise Unsupported
    if not set(required) <= described.keys():
        raise Unsupported
    return Shape(
        [
            _property(name, f"p{place}", child, root, depth, optional=name not in required)
            for place, (name, child) in enumerate(described.items())
        ]
    )


def _property(
    name: str, attribute: str, child: Any, root: Mapping[str, Any], depth: int, *, optional: bool
) -> Property:
    schema = child
    if isinstance(child, Mapping) and "$ref" in child:
        schema = resolve(child, root, links=1)
        if child.keys() - SAYING_NOTHING - {"$ref"} or "$ref" in schema:
            raise Unsupported  # what stands beside a reference counts in some drafts and not in others
    if not isinstance(schema, Mapping):
        raise Unsupported
    stated = kinds(schema)
    if stated == {"object"} and "type" in schema:
        inner = _shape(schema, root, depth + 1)
        return Property(name, attribute, _nullable(inner.type, schema), optional, inner)
    kind = scalar_kind(stated)
    if kind is None or schema.keys() - SAYING_NOTHING - {"type"} - BOUNDS - LENGTHS - BY_VALUE:
        raise Unsupported
    return Property(name, attribute, _nullable(TYPES[kind], schema), optional, None, _check(kind, schema, root))


def _nullable(wanted: Any, schema: Mapping[str, Any]) -> Any:
    """The type, or null: for msgspec. Null has to be in all that the schema says, and else is doubtful."""
    stated = schema.get("type", [])
    allowing = {
        "type": "null" in ([stated] if isinstance(stated, str) else stated),
        "enum": None in schema.get("enum", []),
        "const": False,
    }
    said = [allows for name, allows in allowing.items() if name in schema]
    return wanted | None if said and all(said) else wanted


def _check(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Check | None:
    checks: list[Check] = []
    if kind in {"integer", "number"} and BOUNDS & schema.keys():
        checks.append(_within(schema))
    if kind == "string" and LENGTHS & schema.keys():
        checks.append(_lengths(schema))
    if BY_VALUE & schema.keys():
        checks.append(_one_by_one(kind, schema, root))
    if len(checks) < 2:
        return checks[0] if checks else None

    def check(values: Sequence[Any], column: pl.Series) -> Rows | None:
        found = [rows for one in checks if (rows := one(values, column)) is not None]
        return np.logical_or.reduce(found) if found else None

    return check


def _within(schema: Mapping[str, Any]) -> Check:
    least, greatest = _bound(schema, "minimum", -np.inf), _bound(schema, "maximum", np.inf)
    above, below = _bound(schema, "exclusiveMinimum", -np.inf), _bound(schema, "exclusiveMaximum", np.inf)

    def check(values: Sequence[Any], column: pl.Series) -> Rows | None:
        lowest: Any = column.min()
        highest: Any = column.max()
        if lowest is None or (
            max(least, 1 - EXACT) <= lowest
            and above < lowest
            and highest <= min(greatest, EXACT - 1)
            and highest < below
        ):
            return None
        good = (column >= least) & (column > above) & (column <= greatest) & (column < below)
        good &= column.is_between(1 - EXACT, EXACT - 1)
        return ~good.fill_null(True).to_numpy()

    return check


def _bound(schema: Mapping[str, Any], name: str, otherwise: float) -> float:
    bound = schema.get(name, otherwise)
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not (abs(bound) < EXACT or bound == otherwise):
        raise Unsupported
    return float(bound)


def _lengths(schema: Mapping[str, Any]) -> Check:
    least, most = schema.get("minLength", 0), schema.get("maxLength", LONGEST)
    if max(least, most) > LONGEST:
        raise Unsupported

    def check(values: Sequence[Any], column: pl.Series) -> Rows | None:
        lengths = np.fromiter((least if value is None else len(value) for value in values), np.int64, len(values))
        wrong: Rows = (lengths < least) | (lengths > most)
        return wrong if wrong.any() else None

    return check


def _one_by_one(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Check:
    """Asks the validator about each distinct value."""
    own = {name: schema[name] for name in BY_VALUE & schema.keys()}
    is_valid = jsonschema_rs.validator_for({**_draft(root), **own}).is_valid
    large = EXACT if kind == "number" else np.inf

    def check(values: Sequence[Any], column: pl.Series) -> Rows | None:
        distinct = set(values) - {None}
        wrong = {one for one in distinct if (large < np.inf and abs(one) >= large) or not is_valid(one)}
        return np.array([value in wrong for value in values], np.bool_) if wrong else None

    return check


def _draft(root: Mapping[str, Any]) -> dict[str, Any]:
    return {"$schema": root["$schema"]} if "$schema" in root else {}
