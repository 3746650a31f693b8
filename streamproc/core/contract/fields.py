"""The scalars that a JSON Schema describes, as columns with a name and a type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

DTYPES: Mapping[str, pl.DataType] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
}
INT64 = range(-(2**63), 2**63)
DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Field:
    """A scalar of the event as a column. Nested ones are named with dots: ``address.city``."""

    name: str
    path: tuple[str, ...]
    dtype: pl.DataType


def fields_of(schema: Any, root: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Field]:
    """The scalars below ``path``, in the order in which the schema names them."""
    if len(path) > DEEPEST:
        return
    schema = resolve(schema, root)
    for name, child in (schema.get("properties") or {}).items():
        inner, here = resolve(child, root), (*path, name)
        stated = kinds(inner)
        if stated == {"object"}:
            yield from fields_of(inner, root, here)
        elif (kind := scalar_kind(stated)) is not None:
            yield Field(".".join(here), here, DTYPES[kind])


def resolve(schema: Any, root: Mapping[str, Any], links: int = DEEPEST) -> Mapping[str, Any]:
    """What a ``$ref`` within the schema points to, over so many of them at most."""
    while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str) and links:
        target: Any = root
        for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
            if part:
                target = _member(target, part.replace("~1", "/").replace("~0", "~"))
        schema, links = target, links - 1
    return schema if isinstance(schema, Mapping) else {}


def _member(target: Any, part: str) -> Any:
    if isinstance(target, Mapping):
        return target.get(part, {})
    return target[int(part)] if isinstance(target, list) and part.isdecimal() and int(part) < len(target) else {}


def scalar_kind(stated: set[str]) -> str | None:
    """The one scalar type that a column of such values has; numbers of both kinds are one."""
    if stated and stated <= {"integer", "number"}:
        return "number" if "number" in stated else "integer"
    [kind] = stated if len(stated) == 1 else [""]
    return kind if kind in DTYPES else None


def kinds(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a value can have, null aside; empty where the schema does not say."""
    stated = schema.get("type")
    if isinstance(stated, str):
        return {stated} - {"null"}
    if isinstance(stated, list):
        return set(stated) - {"null"}
    constants = [schema["const"]] if "const" in schema else schema.get("enum", [])
    if constants:
        return {_kind(value) for value in constants} - {"null"}
    options = [kinds(option) for key in ("anyOf", "oneOf") for option in schema.get(key, [])]
    return set().union(*options)


def may_be_missing(schema: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether an event that the schema takes may be without a value there. What is not plainly stated counts as yes."""
    here: Mapping[str, Any] = schema
    for name in path:
        if name not in here.get("required", ()):
            return True
        here = resolve((here.get("properties") or {}).get(name), schema)
        stated = here.get("type")
        if "null" in (stated if isinstance(stated, list) else [stated or "null"]):
            return True
    return False


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}
    return names.get(type(value), "null")


def values_of(events: Sequence[Any], path: tuple[str, ...]) -> list[Any]:
    """One field of decoded events, ``None`` where an event does not have it."""
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


def fit(value: Any, dtype: pl.DataType) -> Any:
    """The value as its column can hold it, or ``None``."""
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
