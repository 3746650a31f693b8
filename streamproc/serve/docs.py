"""A page about the door for people, made of its OpenAPI document: nothing on it comes from anywhere else."""

from __future__ import annotations

from html import escape
from typing import Any, Final

import orjson
from aiohttp import web

from streamproc.serve.names import DOOR, KEYS
from streamproc.serve.openapi import document

STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{overflow:auto;background:#8881;padding:1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}"
    "h2{margin-top:2.5rem}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#9cf}}"
)
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def docs(request: web.Request) -> web.Response:
    """The page."""
    door = request.app[DOOR]
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    api = document(door.plan, door.part, keyed=bool(request.app[KEYS].known))
    return web.Response(text=page(api), content_type="text/html", headers=headers)


def page(api: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info, schemas = api["info"], api["components"]["schemas"]
    operations = [
        _operation(method, path, operation, api)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]
    shown = [f"<h3>{name}</h3><pre>{_pretty(schemas[name])}</pre>" for name in ("Event", "Decision", "Problem")]
    title = escape(info["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{escape(info['description'])}</p>"
        f"<p><a href=/openapi.json>openapi.json</a></p>{''.join(operations)}<h2>Schemas</h2>{''.join(shown)}</html>\n"
    )


def _operation(method: str, path: str, operation: dict[str, Any], api: dict[str, Any]) -> str:
    parameters = [(one["name"], one["in"], one.get("description", "")) for one in operation.get("parameters", ())]
    bodies = [(kind, "body", "") for kind in operation.get("requestBody", {}).get("content", ())]
    answers = [(status, "answer", _described(one, api)) for status, one in sorted(operation["responses"].items())]
    rows = [
        f"<tr><td><code>{escape(name)}</code><td>{where}<td>{escape(text)}"
        for name, where, text in (*parameters, *bodies, *answers)
    ]
    head = f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>"
    return f"{head}<table>{''.join(rows)}</table>"


def _described(answer: dict[str, Any], api: dict[str, Any]) -> str:
    target = answer.get("$ref")
    found = api["components"]["responses"][target.rpartition("/")[2]] if target else answer
    return str(found["description"])


def _pretty(value: Any) -> str:
    return escape(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
