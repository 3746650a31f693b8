"""Reading bodies, and writing long ones, bounded in bytes and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

from streamproc.serve.names import DOOR, HELD
from streamproc.serve.problems import JSON, Problem

NDJSON: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")


def kind_of(request: web.Request) -> str:
    """The media type of the body. Raises Problem for one that is not taken."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem("unsupported", "bodies are not compressed")
    if request.content_type != JSON and request.content_type not in NDJSON:
        raise Problem("unsupported", f"a body is {JSON} or {NDJSON[0]}")
    return request.content_type


def hold(request: web.Request, size: int) -> None:
    """Note that the request holds so many bytes more. Raises Problem where all requests together hold too many."""
    door = request.app[DOOR]
    request[HELD] = request.get(HELD, 0) + size
    door.held += size
    if door.held + door.writer.bytes > door.part.bytes:
        raise Problem("too-many", "so many bytes are being read that no more are taken", wait=1)


def release(request: web.Request) -> None:
    """Note that the request holds nothing any more."""
    request.app[DOOR].held -= request.get(HELD, 0)
    request[HELD] = 0


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

    What is too long is passed over without being kept.
    """
    rest, number, skipping = b"", 0, False
    async for part in _parts(request, seconds):
        holding(request, len(part))
        *whole_lines, rest = (rest + part).split(b"\n")
        for line in whole_lines:
            number += 1
            if skipping:
                skipping = False
            elif len(line) > most:
                yield number, None
            elif line := line.strip():
                yield number, line
        if len(rest) > most:
            if not skipping:
                yield number + 1, None
            rest, skipping = b"", True
    if not skipping and (rest := rest.strip()):
        yield number + 1, rest


async def _parts(request: web.Request, seconds: float) -> AsyncIterator[bytes]:
    try:
        while True:
            async with asyncio.timeout(seconds):
                part = await request.content.readany()
            if not part:
                return
            yield part
    except TimeoutError:
        raise Problem("timeout", f"nothing came for {seconds:.3g} s") from None


async def written(request: web.Request, response: web.StreamResponse, raw: bytes) -> None:
    """Write a part of an answer. Raises ConnectionResetError where the caller does not read it in time."""
    try:
        async with asyncio.timeout(request.app[DOOR].part.timeout.total_seconds()):
            await response.write(raw)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the caller does not read") from None
