"""What the door takes and answers, as OpenAPI 3.1: made of the contract and of the schemas of records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from streamproc import __version__
from streamproc.core.outcomes.joining import text
from streamproc.core.plan import Plan
from streamproc.plan.serve_parts import ServePart
from streamproc.sample import schema
from streamproc.serve.bodies import NDJSON
from streamproc.serve.names import DOOR, KEYS
from streamproc.serve.problems import JSON, PROBLEM, TITLES, json_response

RECORDS: Final = {"Decision": "decision", "Verdict": "verdict", "Outcome": "outcome"}
COMMON: Final = ("bad-request", "unauthorized", "forbidden", "too-many", "bug")
TAKING: Final = ("timeout", "too-large", "unsupported", "refused", "broker-away")
TEXT: Final = {"type": "string"}
COUNT: Final = {"type": "integer", "minimum": 0}
DURATION: Final = {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d)$"}
KEY: Final = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]([ -~]*[!-~])?$"}


def document(plan: Plan, part: ServePart, *, keyed: bool) -> dict[str, Any]:
    """The description of a pipeline's door; ``keyed`` where callers need keys."""
    paths: dict[str, Any] = {
        "/v1/events": {"post": _events()},
        "/v1/decide": {"post": _decide(part)},
        "/v1/decisions": {"get": _of_event()},
        "/v1/decisions/{id}": {"get": _one()},
        "/v1/decisions/stream": {"get": _stream()},
    }
    if plan.review is not None:
        paths["/v1/verdicts"] = {"post": _said("verdicts", "Verdict", "What a person says of a case", lines=False)}
    if plan.outcomes is not None:
        paths["/v1/outcomes"] = {"post": _said("outcomes", "Outcome", "What came true of events", lines=True)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{plan.pipeline}: events in, decisions out",
            "version": __version__,
            "description": "An event is written to Kafka and decided there, exactly once; its decision is read back.",
        },
        **({"security": [{"key": []}]} if keyed else {}),
        "paths": paths,
        "components": {
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if keyed else {}),
            "schemas": _schemas(plan, part),
            "responses": {name: _problem(name) for name in TITLES},
        },
    }


def _schemas(plan: Plan, part: ServePart) -> dict[str, Any]:
    made = {name: _placed(name, orjson.loads(schema(file).read_bytes())) for name, file in RECORDS.items()}
    if plan.outcomes is not None:
        made["Outcome"]["properties"]["value"]["enum"] = [
            one for value in plan.outcomes.values for one in _forms(value)
        ]
    if part.answer:
        made["Answer"] = {"type": "object", "required": part.answer, "properties": {name: {} for name in part.answer}}
    else:
        made["Answer"] = _ref("Decision")
    place = {
        "id": {"description": "The event's own id, the Idempotency-Key, or one that was made", **TEXT},
        "decision_id": {"type": ["string", "null"]},
        "topic": TEXT,
        "partition": COUNT,
        "offset": {"type": ["integer", "null"]},
        "timestamp": {"type": "integer"},
        "href": {"description": "Where the decision is found", **TEXT},
    }
    told = {"line": COUNT, "path": TEXT, "reason": TEXT, "detail": TEXT}
    return {
        **made,
        "Event": _placed("Event", dict(plan.contract.schema)),
        "Place": {"type": "object", "required": list(place), "properties": {"line": COUNT, **place}},
        "Taken": {
            "type": "object",
            "required": ["taken", "refused"],
            "properties": {
                "taken": COUNT,
                "refused": COUNT,
                "accepted": {"type": "array", "items": _ref("Place")},
            },
        },
        "Pending": {
            "allOf": [_ref("Place")],
            "type": "object",
            "required": ["status"],
            "properties": {"status": {"enum": ["pending", "decided"]}},
        },
        "Deadline": {
            "allOf": [_ref("Place")],
            "type": "object",
            "required": ["status", "decision", "tier"],
            "properties": {"status": {"const": "deadline"}, "decision": TEXT, "tier": {"const": "deadline"}},
        },
        "Problem": {
            "description": "RFC 9457",
            "type": "object",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": {"enum": [f"urn:streamproc:problem:{name}" for name in TITLES]},
                "title": TEXT,
                "status": {"type": "integer"},
                "detail": TEXT,
                "errors": {"type": "array", "items": {"type": "object", "properties": told}},
            },
        },
    }


def _forms(value: str) -> list[Any]:
    """The JSON values that name an outcome."""
    try:
        plain = orjson.loads(value)
    except orjson.JSONDecodeError:
        return [value]
    return [value, plain] if isinstance(plain, bool | int | float) and text(plain) == value else [value]


def _placed(name: str, own: Mapping[str, Any]) -> Any:
    """A schema as a part of the document: what points into it points there."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(moved, value))
        if not isinstance(value, dict):
            return value
        there = {key: moved(inner) for key, inner in value.items()}
        target = there.get("$ref")
        if isinstance(target, str) and target.startswith("#"):
            there["$ref"] = f"#/components/schemas/{name}{target.removeprefix('#')}"
        return there

    return {key: moved(value) for key, value in own.items() if key not in ("$schema", "$id")}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str, description: str) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": _ref(name)}}}


def _problem(name: str) -> dict[str, Any]:
    return {"description": TITLES[name][1], "content": {PROBLEM: {"schema": _ref("Problem")}}}


def _problems(*names: str) -> dict[str, Any]:
    """By status: several problems may share one, and one document describes them all."""
    return {str(TITLES[name][0]): {"$ref": f"#/components/responses/{name}"} for name in (*COMMON, *names)}


def _query(name: str, description: str, of: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": dict(of)}


IDEMPOTENCY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The event's id, where it has none of its own",
    "schema": KEY,
}


def _events() -> dict[str, Any]:
    streamed = {"description": "Of many lines: one for each, and a last one that counts", "schema": TEXT}
    taken = {"oneOf": [_ref("Place"), _ref("Taken")]}
    return {
        "operationId": "events",
        "summary": "Take events: one, or a line for each",
        "parameters": [
            IDEMPOTENCY,
            _query("answer", "`summary`: counts, and what was refused", {"const": "summary"}),
        ],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _ref("Event")}, NDJSON[0]: {"schema": {"type": "string"}}},
        },
        "responses": {
            "202": {
                "description": "They are on the events topic",
                "content": {JSON: {"schema": taken}, NDJSON[0]: streamed},
            },
            **_problems(*TAKING),
        },
    }


def _decide(part: ServePart) -> dict[str, Any]:
    answer = {"oneOf": [_ref("Answer"), _ref("Deadline")]} if part.on_deadline != "pending" else _ref("Answer")
    return {
        "operationId": "decide",
        "summary": "Take an event, and wait for its decision",
        "parameters": [IDEMPOTENCY, _query("deadline", "How long to wait: `300ms`", _within(part))],
        "requestBody": {"required": True, "content": {JSON: {"schema": _ref("Event")}}},
        "responses": {
            "200": {"description": "The decision", "content": {JSON: {"schema": answer}}},
            "202": _json("Pending", "It is not decided yet, and will be"),
            **_problems(*TAKING),
        },
    }


def _within(part: ServePart) -> dict[str, Any]:
    """Deadlines that are taken in any case: milliseconds of fewer digits than the longest has."""
    digits = max(1, len(str(int(part.longest.total_seconds() * 1000))) - 1)
    return {"type": "string", "pattern": f"^[1-9][0-9]{{0,{digits - 1}}}ms$"}


def _of_event() -> dict[str, Any]:
    return {
        "operationId": "decision_of_event",
        "summary": "The decision of an event, made lately",
        "parameters": [{**_query("event", "The event's id", {"type": "string", "minLength": 1}), "required": True}],
        "responses": {"200": _json("Answer", "The decision"), **_problems("not-found")},
    }


def _one() -> dict[str, Any]:
    return {
        "operationId": "decision",
        "summary": "A decision as it holds now",
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
            _query("since", "How far back to look for it: `1d`", DURATION),
        ],
        "responses": {"200": _json("Answer", "The decision"), **_problems("not-found", "timeout", "broker-away")},
    }


def _stream() -> dict[str, Any]:
    return {
        "operationId": "stream",
        "summary": "Decisions as they come, as server-sent events",
        "parameters": [_query("key", "Only those of events with this key", TEXT)],
        "responses": {
            "200": {"description": "A stream without an end", "content": {"text/event-stream": {"schema": TEXT}}},
            **_problems(),
        },
    }


def _said(name: str, record: str, summary: str, *, lines: bool) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": _ref(record)}}
    if lines:
        content[NDJSON[0]] = {"schema": {"type": "string"}}
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {
            "202": {"description": "It is on its topic", "content": {JSON: {"schema": {"type": "object"}}}},
            **_problems(*TAKING, "not-found"),
        },
    }


async def openapi(request: web.Request) -> web.Response:
    """The document."""
    door = request.app[DOOR]
    return json_response(document(door.plan, door.part, keyed=bool(request.app[KEYS].known)))
