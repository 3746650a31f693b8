"""Reading bodies, and writing long ones, bounded in bytes and in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

from streamproc.serve.names import DOOR, HELD
from streamproc.serve.problems import JSON, Problem

LEAST_RATE: Final = 500.0
"""Bytes a second of a body, beyond its first ``serve.timeout``: what comes more slowly holds a place for too long."""
NDJSON: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")


def kind_of(request: web.Request) -> str:
    """The media type of the body. Raises Problem for one that is not taken."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem("unsupported", "bodies are not compressed")
    if request.content_type != JSON and request.content_type not in NDJSON:
        raise Problem("unsupported", f"a body is {JSON} or {NDJSON[0]}")
    return request.content_type


def hold(request: web.Request, size: int) -> None:
    """Note that the request holds so many bytes more, or less. Raises Problem where all requests together hold too
    many."""
    door = request.app[DOOR]
    request[HELD] = request.get(HELD, 0) + size
    door.held += size
    if size > 0 and door.holding > door.part.bytes:
        raise Problem("too-many", "so many bytes are being read that no more are taken", wait=1)


def release(request: web.Request) -> None:
    """Note that the request holds nothing any more."""
    hold(request, -request.get(HELD, 0))


async def whole(request: web.Request, most: int, seconds: float) -> bytes:
    """A body of at most so many bytes, each part of which comes within ``seconds``. Raises Problem."""
    if (request.content_length or 0) > most:
        raise Problem("too-large", f"a body has at most {most} bytes")
    body = bytearray()
    async for part in _parts(request, seconds):
        hold(request, len(part))
        body += part
        if len(body) > most:
            raise Problem("too-large", f"a body has at most {most} bytes")
    return bytes(body)


async def lines(
    request: web.Request, most: int, seconds: float, holding: Callable[[web.Request, int], None] = hold
) -> AsyncIterator[tuple[int, bytes | None]]:
    """The numbers of lines, from 1, and the lines that are not empty; ``None`` for one of more than ``most`` bytes.

    What is empty or too long is passed over without being kept. The lines that were given are held until they are let
    go of.
    """
    rest, number, skipping = bytearray(), 0, False
    async for part in _parts(request, seconds):
        holding(request, len(part))
        *ended, last = part.split(b"\n")
        before, kept = len(rest), 0
        for piece in ended:
            number += 1
            whole_line = piece
            if rest:  # joined once, however many parts it came in
                rest += piece
                whole_line, rest = bytes(rest), bytearray()
            if skipping:
                skipping = False
            elif len(whole_line) > most:
                yield number, None
            elif line := whole_line.strip():
                kept += len(line)
                yield number, line
        if not skipping:
            rest += last
        if len(rest) > most:
            yield number + 1, None
            rest, skipping = bytearray(), True
        holding(request, kept + len(rest) - before - len(part))
    if not skipping and (line := bytes(rest).strip()):
        yield number + 1, line


async def _parts(request: web.Request, seconds: float) -> AsyncIterator[bytes]:
    """The parts of a body. Only waiting for the caller counts, and not what is done with the parts."""
    waited, came = 0.0, 0
    while True:
        spare, began = came / LEAST_RATE - waited, time.monotonic()
        try:
            async with asyncio.timeout(seconds + min(0.0, spare)):
                part = await request.content.readany()
        except TimeoutError:
            slowly = f"it came more slowly than {LEAST_RATE:.0f} bytes a second"
            raise Problem("timeout", f"nothing came for {seconds:.3g} s" if spare >= 0 else slowly) from None
        if not part:
            return
        waited, came = waited + time.monotonic() - began, came + len(part)
        yield part


async def written(request: web.Request, response: web.StreamResponse, raw: bytes) -> None:
    """Write a part of an answer. Raises ConnectionResetError where the caller does not read it in time."""
    try:
        async with asyncio.timeout(request.app[DOOR].part.timeout.total_seconds()):
            await response.write(raw)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the caller does not read") from None
