"""What a supervisor tells a worker that stands by: that it is its turn, in a line on standard input."""

from __future__ import annotations

import contextlib
import importlib
import os
from dataclasses import asdict, dataclass
from typing import Self

import orjson

PREPARED = ("streamproc.pipeline", "streamproc.worker", "onnxruntime")
"""What takes long to import."""


@dataclass(frozen=True, slots=True)
class Turn:
    """``web_port`` is where the worker serves its pages, ``restarts`` how often its place was taken before.

    >>> Turn.decode(Turn(8080, 2).encode())
    Turn(web_port=8080, restarts=2)
    """

    web_port: int | None = None
    restarts: int = 0

    def encode(self) -> bytes:
        """One line."""
        return orjson.dumps(asdict(self)) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """The inverse of ``encode``."""
        return cls(**orjson.loads(line))


def stand_by() -> Turn | None:
    """Do what can be done beforehand, and wait for the turn; ``None`` if it will never come."""
    for module in PREPARED:
        with contextlib.suppress(ImportError):  # onnxruntime is an extra
            importlib.import_module(module)
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(0, 1)  # no more than the line: the end of the input is waited for by another reader
        if not read:
            return None
        line += read
    return Turn.decode(line)
