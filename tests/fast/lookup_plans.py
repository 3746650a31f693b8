"""A pipeline that looks things up, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from streamproc.core.processor import Answer, Ask, Lookup

EVENT = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "integer"},
        "customer": {"type": ["string", "null"]},
        "card": {"type": ["integer", "null"]},
        "time": {"type": "string"},
    },
}
PROFILE = {
    "type": "object",
    "required": ["income"],
    "properties": {
        "income": {"type": ["number", "null"], "minimum": 0},
        "tier": {"type": "string"},
        "since": {"type": "integer"},
    },
}
PIPELINE = """
pipeline: looks
events: {topic: looks.events, schema: event.schema.json, key: id, time: time}
TABLES
features:
  income: {lookup: profiles, field: income, default: -1}
  tier: {lookup: profiles, field: tier}
  poor: income < 100
rules:
  - {id: unknown, when: income_missing, decide: review}
  - {id: poor, when: poor, decide: decline}
  - {id: gold, when: tier = 'gold', observe: true}
  - {id: rest, decide: approve}
actions: {approve: looks.approvals, decline: looks.declines}
"""
TABLES = "tables: {profiles: {topic: looks.profiles, schema: profile.schema.json, key: customer}}"
ROWS: Mapping[bytes, tuple[Any, ...]] = {b"a": (50.0, "gold"), b"b": (500.0, None), b"c": (None, "gold")}


def write(folder: Path, text: str = PIPELINE, tables: str = TABLES, *changes: tuple[str, str]) -> Path:
    """The pipeline file, in a folder with its schemas."""
    (folder / "event.schema.json").write_bytes(orjson.dumps(EVENT))
    (folder / "profile.schema.json").write_bytes(orjson.dumps(PROFILE))
    text = text.replace("TABLES", tables)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (folder / "pipeline.yaml").write_text(text, encoding="utf-8")
    return folder / "pipeline.yaml"


def event(number: int, customer: str | None, **more: Any) -> bytes:
    return orjson.dumps({"id": number, "customer": customer, "time": "2026-01-01T00:00:00Z", **more})


def from_rows(ask: Ask) -> Answer:
    """Answers from ``ROWS``."""
    assert isinstance(ask, Lookup)
    assert ask.fields == ("income", "tier")
    found = [ROWS.get(key) for key in ask.keys]
    return Answer(found, [None if row is not None else "no_such_key" for row in found], "v1")
