"""Where handlers find what they need."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from streamproc.core.signatures import Signatures
from streamproc.serve.callers import Caller, Keys
from streamproc.serve.door import Door

DOOR: Final = web.AppKey("door", Door)
CALLER: Final = web.RequestKey("caller", Caller)
HELD: Final = web.RequestKey("held", int)
"""Bytes of its body that a request holds."""
SIGNATURES: Final = web.AppKey("signatures", Signatures)
KEYS: Final = web.AppKey("keys", Keys)
