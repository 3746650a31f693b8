"""Validators of every record type, from schemas/."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import orjson

from streamproc.sample import schema

NAMES = (
    "decision",
    "review-item",
    "dead-letter",
    "artefact",
    "redrive",
    "drift",
    "drift-escalation",
    "drift-state",
    "control",
    "verdict",
    "review-event",
    "action-result",
    "outcome",
    "measures",
    "unseen",
)
SCHEMAS: dict[str, Any] = {name: orjson.loads(schema(name).read_bytes()) for name in NAMES}
_registry = jsonschema_rs.Registry([(one["$id"], one) for one in SCHEMAS.values()])
_VALIDATORS: dict[str, Any] = {
    name: jsonschema_rs.validator_for(one, registry=_registry) for name, one in SCHEMAS.items()
}


def problems(name: str, instance: Any) -> list[str]:
    """Everything in which an instance is not what its schema says."""
    return [f"{error.instance_path}: {error.message}" for error in _VALIDATORS[name].iter_errors(instance)]


def record_problems(value: bytes | None, headers: Any) -> list[str]:
    """What is wrong with one output record; its schema is the one that its headers name."""
    text = {name: (content or b"").decode() for name, content in headers}
    name = text["sp-type"]
    version = SCHEMAS[name]["$id"].rpartition(":")[2]
    found = [] if text["sp-version"] == version else [f"sp-version is {text['sp-version']}, not {version}"]
    if name == "dead-letter":
        return found + problems(name, text)
    if name == "artefact" and text["sp-kind"] in ("model", "prompt"):
        return found
    return found + problems(name, orjson.loads(value or b"null"))
