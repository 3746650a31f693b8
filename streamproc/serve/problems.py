"""What is wrong with a request, as RFC 9457 has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web

PROBLEM: Final = "application/problem+json"
JSON: Final = "application/json"

TITLES: Final[Mapping[str, tuple[int, str]]] = {
    "bad-request": (400, "The request cannot be read"),
    "unauthorized": (401, "An API key is needed"),
    "forbidden": (403, "The API key does not allow this"),
    "not-found": (404, "There is nothing here"),
    "method-not-allowed": (405, "That cannot be done here"),
    "timeout": (408, "The request did not come in time"),
    "too-large": (413, "The request is too large"),
    "unsupported": (415, "Bodies of this kind are not taken"),
    "refused": (422, "What was sent is not as it must be"),
    "too-many": (429, "Too much at once"),
    "bug": (500, "A bug of streamproc"),
    "broker-away": (503, "Kafka does not answer"),
    "behind": (503, "The pipeline is behind"),
    "starting": (503, "The door is not ready yet"),
}
"""By the end of its type: the status and the title of each problem."""


class Problem(Exception):
    """A request that is answered with a problem document; nothing else is done with it.

    ``wait`` is in seconds, for Retry-After; ``more`` stands in the document beside the fields of the RFC.
    """

    def __init__(self, kind: str, detail: str, *, wait: int | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.wait, self.more = kind, detail, wait, more

    @property
    def document(self) -> dict[str, Any]:
        """The fields of the problem document."""
        status, title = TITLES[self.kind]
        return {
            "type": f"urn:streamproc:problem:{self.kind}",
            "title": title,
            "status": status,
            "detail": self.detail,
            **self.more,
        }

    def response(self) -> web.Response:
        """The answer."""
        headers = {} if self.wait is None else {"Retry-After": str(self.wait)}
        if self.kind == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        body = orjson.dumps(self.document)
        return web.Response(status=TITLES[self.kind][0], body=body, content_type=PROBLEM, headers=headers)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """JSON; bytes are JSON already."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return web.Response(status=status, body=raw, content_type=JSON, headers=headers)
