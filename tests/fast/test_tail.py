"""How `streamproc tail` shows values: whatever is in a topic can be shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from streamproc.cli.tail import line, text

DEEP = b"[" * 400 + b"]" * 400


def record(value: bytes | None) -> Any:
    headers = [("sp-type", b"decision"), ("odd", b"\xff")]
    return SimpleNamespace(topic="t", partition=1, offset=2, timestamp=0, key=b"k", headers=headers, value=value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"a": 1}', {"value": {"a": 1}}),
        (None, {"value": None}),
        (b"", {"value": ""}),
        (b"no JSON", {"value": "no JSON"}),
        (b"\xff", {"value_base64": "/w=="}),
        (DEEP, {"value": DEEP.decode()}),
    ],
)
def test_any_value_is_a_line_and_a_text(value: bytes | None, expected: dict[str, Any]) -> None:
    shown = orjson.loads(line(record(value)))
    assert {name: item for name, item in shown.items() if name.startswith("value")} == expected
    assert (shown["offset"], shown["headers"]) == (2, [["sp-type", "decision"], ["odd", "\\xff"]])
    assert "1@2  key=k" in text(record(value))
