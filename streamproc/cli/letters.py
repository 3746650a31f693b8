"""Dead letters as lines of a file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from streamproc.core.processor import Output
from streamproc.core.records import text_headers


def letter_lines(output: Output) -> Iterable[bytes]:
    """A JSON object for each dead letter: key, headers, and the value as text or, where it is none, in Base64."""
    for key, value, headers in zip(output.keys, output.values, output.headers, strict=True):
        letter: Mapping[str, Any] = {"key": _text(key), "headers": text_headers(headers), **_body(value)}
        yield orjson.dumps(letter)


def _body(value: bytes | None) -> dict[str, str | None]:
    try:
        return {"value": None if value is None else value.decode(), "value_base64": None}
    except UnicodeDecodeError:
        return {"value": None, "value_base64": base64.b64encode(value or b"").decode()}


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="backslashreplace")
