"""Whatever way an event is read, the quick one or the validator's, the contract comes to the same."""

from __future__ import annotations

from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamproc.core.contract import Contract
from streamproc.core.contract.quick import Quick
from streamproc.errors import UserError

DRAFT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA: dict[str, Any] = {
    "$schema": DRAFT,
    "type": "object",
    "required": ["id", "amount", "kind", "card"],
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "amount": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000.5},
        "kind": {"enum": ["a", "b", "ü"]},
        "maybe": {"enum": ["x", None]},
        "name": {"type": "string", "minLength": 2, "maxLength": 3},
        "country": {"type": ["string", "null"], "pattern": "^[A-Z]{2}$"},
        "steps": {"type": "number", "multipleOf": 0.5},
        "big": {"type": "integer", "maximum": 2**53 - 1},
        "plain": {"type": "integer"},
        "flag": {"type": "boolean"},
        "one": {"$ref": "#/$defs/one"},
        "card": {
            "type": "object",
            "required": ["brand"],
            "properties": {"brand": {"type": "string"}, "age days": {"type": ["integer", "null"]}},
            "additionalProperties": False,
        },
        "inner": {
            "type": ["object", "null"],
            "properties": {"deep": {"type": "object", "properties": {"x": {"type": "number"}}}},
        },
    },
    "$defs": {"one": {"const": 1, "type": "integer"}},
}
GOOD: dict[str, Any] = {"id": 1, "amount": 2.5, "kind": "a", "card": {"brand": "visa"}}

NUMBERS = st.sampled_from(
    [0, 1, -1, 1.0, 0.5, 0.3, 1000.5, 1000.6, 2**53, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 1e300, True]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["a", "b", "ü", "x", "NL", "NL\n", "nl", "ab", "abcd", "😀😀", ""]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(
        st.sampled_from(["brand", "age days", "deep", "other"]), st.sampled_from(["v", 1, None, {"x": 1}]), max_size=3
    ),
)
EVENTS = st.dictionaries(st.sampled_from([*SCHEMA["properties"], "unknown"]), VALUES, max_size=5).map(
    lambda more: GOOD | more
)


@st.composite
def raw(draw: st.DrawFn) -> bytes | None:
    """Mostly JSON of events that are nearly right, some of it damaged."""
    way = draw(st.sampled_from(["event"] * 6 + ["mutated", "none", "bytes", "any"]))
    if way == "none":
        return None
    if way == "bytes":
        return draw(st.binary(max_size=20))
    text = _json(draw(EVENTS if way != "any" else VALUES))
    if way == "mutated" and text:
        place = draw(st.integers(0, len(text) - 1))
        text = text[:place] + draw(st.binary(max_size=3)) + text[place + draw(st.integers(0, 3)) :]
    return text


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers of more than 64 bits
        import json

        return json.dumps(value).encode()


def slow(schema: dict[str, Any]) -> Contract:
    contract = Contract(schema)
    contract._quick = None
    return contract


QUICK, SLOW = Contract(SCHEMA), slow(SCHEMA)


def test_the_schema_has_a_quick_way() -> None:
    assert QUICK._quick is not None


@settings(deadline=None)
@given(st.lists(raw(), max_size=12))
def test_both_ways_come_to_the_same(values: list[bytes | None]) -> None:
    one, other = QUICK.read(values), SLOW.read(values)
    assert one.rows.tolist() == other.rows.tolist()
    assert one.refused == other.refused
    assert one.columns.equals(other.columns)


PROPERTIES: list[Any] = [
    {"type": "integer"},
    {"type": "number", "minimum": 0.5},
    {"type": ["number", "null"], "maximum": 2**53 - 1},
    {"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1},
    {"type": "integer", "minimum": -(2**53), "maximum": 2**53},
    {"type": "integer", "exclusiveMinimum": True, "minimum": 0},
    {"type": "integer", "exclusiveMaximum": 3},
    {"type": ["string", "null"], "enum": ["a", None], "const": "a"},
    {"type": ["string", "null"], "enum": ["a", "x"]},
    {"enum": ["a", None]},
    {"enum": [1, 1.5, None]},
    {"enum": [True, 1]},
    {"const": True},
    {"const": 1},
    {"const": "a", "type": ["string", "integer"]},
    {"type": "string", "minLength": 2, "pattern": "^[a-z]+$"},
    {"type": "string", "minLength": 2**63},
    {"type": "string", "maxLength": 1},
    {"type": "string", "format": "date"},
    {"type": "number", "multipleOf": 0.1},
    {"type": "boolean", "const": False},
    {"$ref": "#/$defs/one"},
    {"$ref": "#/$defs/chain"},
    {"$ref": "#/$defs/one", "minimum": 5},
    {"$ref": "#/$defs/object"},
    {"$ref": "#/$defs/objects"},
    {"$ref": "#/$defs/either/anyOf/0"},
    {"type": "integer", "$schema": DRAFT, "const": 3},
    {"type": "object", "$id": "http://other/", "properties": {"x": {"$ref": "#/$defs/one"}}},
    {"type": ["object", "null"], "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    {"type": "object", "properties": {"x": {"type": "object", "properties": {"deep": {"type": "number"}}}}},
    {"type": "object", "minProperties": 1, "properties": {"x": {"type": "integer"}}},
    {"type": "object"},
    {"type": "array"},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"not": {"type": "string"}, "type": "integer"},
    True,
    False,
    {},
]
DEFINITIONS: dict[str, Any] = {
    "one": {"type": "integer", "maximum": 1},
    "chain": {"$ref": "#/$defs/one", "minimum": 1},
    "object": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    "objects": {"$ref": "#/$defs/object", "required": ["deep"]},
    "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
}
DRAFTS = [f"http://json-schema.org/draft-0{number}/schema#" for number in (4, 6, 7)]
FIELDS = ["a", "b", "c", "ü"]


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"properties": {name: draw(st.sampled_from(PROPERTIES)) for name in FIELDS}}
    if draft := draw(st.sampled_from([None, DRAFT, *DRAFTS])):
        schema["$schema"] = draft
    if stated := draw(st.sampled_from([None, "object", ["object", "null"], "array"])):
        schema["type"] = stated
    if required := draw(st.lists(st.sampled_from(FIELDS), unique=True)):
        schema["required"] = required
    if draw(st.booleans()):
        schema["additionalProperties"] = False
    return schema | {"$defs": DEFINITIONS}


MEMBERS = st.one_of(
    VALUES, st.integers(-3, 3), st.dictionaries(st.sampled_from(["x", "deep"]), st.sampled_from([0, 1, 2, 0.5, None]))
)


@settings(max_examples=300, deadline=None)  # compiling a schema takes what it takes
@given(schemas(), st.lists(st.dictionaries(st.sampled_from(FIELDS), MEMBERS), min_size=1, max_size=8))
def test_both_ways_come_to_the_same_under_any_schema(schema: dict[str, Any], events: list[Any]) -> None:
    try:
        one, other = Contract(schema), slow(schema)
    except UserError:
        assume(False)
    values = [_json(event) for event in events]
    quick, slowly = one.read(values), other.read(values)
    assert quick.refused == slowly.refused
    assert quick.columns.equals(slowly.columns)


@pytest.mark.parametrize("schema", PROPERTIES[:23])
def test_most_of_what_scalars_say_has_a_quick_way(schema: Any) -> None:
    only_slow = [{"type": "integer", "minimum": -(2**53), "maximum": 2**53}, {"type": "string", "minLength": 2**63}]
    slow_ways = [*only_slow, PROPERTIES[5], PROPERTIES[14], {"$ref": "#/$defs/chain"}, {"enum": [True, 1]}]
    quick = Quick.of({"properties": {"a": schema}, "$defs": DEFINITIONS})
    assert (quick is None) == (schema in slow_ways)


@pytest.mark.parametrize("count", [1, 300])
def test_many_doubtful_events_are_read_slowly(count: int) -> None:
    strange = orjson.dumps(GOOD | {"unknown": 1})
    values = [strange, orjson.dumps(GOOD), b"{"] * count
    one, other = QUICK.read(values), SLOW.read(values)
    assert one.refused == other.refused
    assert one.columns.equals(other.columns)
    assert one.columns["id"].len() == 2 * count


def test_a_doubtful_event_among_good_ones_keeps_its_place() -> None:
    values = [orjson.dumps(GOOD | {"id": number, "big": 2**53 if number == 2 else 1}) for number in range(4)]
    reading = QUICK.read(values)
    assert reading.columns["id"].to_list() == [0, 1, 3]
    assert reading.refused[2].reason == "contract_maximum"
    assert reading.rows.tolist() == [0, 1, 3]
    assert reading.columns.schema["amount"] == pl.Float64


@pytest.mark.parametrize(
    "more",
    [
        {"allOf": [{"required": ["id"]}]},
        {"minProperties": 3},
        {"required": ["elsewhere"]},
        {"properties": {"id": {"type": "integer"}, "list": {"type": "array"}}},
        {"properties": {"id": {"type": "integer"}, "either": {"type": ["integer", "string"]}}},
        {"properties": {"id": {"type": "integer"}, "not": {"not": {"type": "string"}, "type": "integer"}}},
        {"properties": {"id": {"type": "integer", "minimum": 2**60}}},
        {"properties": {"id": {"$ref": "#/$defs/one", "minimum": 2}}},
        {"properties": {"id": {"type": "integer"}, 'quo"te': {"type": "string"}}},
    ],
)
def test_what_only_the_validator_understands_has_no_quick_way(more: dict[str, Any]) -> None:
    schema = {**SCHEMA, "required": ["id"], **more}
    assert Quick.of(schema) is None


def test_a_recursive_schema_has_no_quick_way() -> None:
    schema = {"type": "object", "properties": {"id": {"type": "integer"}, "next": {"$ref": "#"}}}
    assert Quick.of(schema) is None
