"""Rows in Redis, and in what speaks its protocol: one request for all keys of a batch."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import orjson
import polars as pl

from streamproc.core.names import WRONG_TYPE
from streamproc.io.model import Unavailable
from streamproc.io.redis_client import redis_client
from streamproc.io.store import Found

if TYPE_CHECKING:
    from redis.asyncio import Redis

LARGEST_ROW = 1 << 20
"""Bytes of a JSON row; a larger one cannot be used."""
TRUTH: Mapping[bytes, bool] = {b"true": True, b"1": True, b"false": False, b"0": False}
INTEGER = re.compile(rb"[+-]?\d{1,19}")


class RedisRows:
    """The row of a key stands under ``pattern``, whose ``{}`` is the key: a hash, or JSON.

    ``fields`` are those that are asked for, with their types, by which texts are read. Where the empty name is the only
    one, the row is one plain value, and no JSON.
    """

    version = ""

    def __init__(
        self, url: str, fields: Mapping[str, pl.DataType], pattern: str, *, is_hash: bool, connections: int
    ) -> None:
        """Connects when it is first asked. Raises UserError for what is no address, whose text is never told."""
        self._url, self._pattern, self._is_hash, self._connections = url, pattern.encode(), is_hash, connections
        self._names, self._types = [name.encode() for name in fields], list(fields.values())
        self._fields = tuple(fields)
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()
        redis_client(url, connections)  # what is wrong with the address shows here

    async def get(self, keys: Sequence[bytes], deadline: float) -> list[Found]:
        """One row for each key. Raises Unavailable where nobody answers, or with an error."""
        from redis.exceptions import RedisError

        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = redis_client(self._url, self._connections)
        names = [self._pattern.replace(b"{}", key) for key in keys]
        try:
            return await (self._hashes if self._is_hash else self._documents)(client, names)
        except (RedisError, OSError) as error:
            raise Unavailable(type(error).__name__) from None

    async def _hashes(self, client: Redis, names: Sequence[bytes]) -> list[Found]:
        async with client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hmget(name, cast("list[str]", self._names))
            got = await pipeline.execute(raise_on_error=False)
        return [self._of_hash(one) for one in got]

    def _of_hash(self, texts: Any) -> Found:
        """The row of a hash; a hash without any of the fields is none. What stands there may be no hash."""
        if isinstance(texts, Exception):
            from redis.exceptions import ResponseError

            if isinstance(texts, ResponseError) and str(texts).startswith("WRONGTYPE"):
                return WRONG_TYPE
            raise texts
        if not any(text is not None for text in texts):
            return None
        return tuple(None if text is None else read(text, kind) for text, kind in zip(texts, self._types, strict=True))

    async def _documents(self, client: Redis, names: Sequence[bytes]) -> list[Found]:
        got = await cast("Awaitable[list[bytes | None]]", client.mget(names))
        read_it = self._of_value if self._fields == ("",) else self._of_document
        return [None if text is None else read_it(text) for text in got]

    def _of_value(self, text: bytes) -> Found:
        return (read(text, self._types[0]),)

    def _of_document(self, text: bytes) -> Found:
        try:
            row = orjson.loads(text) if len(text) <= LARGEST_ROW else None
        except orjson.JSONDecodeError:
            return WRONG_TYPE
        return tuple(row.get(name) for name in self._fields) if isinstance(row, dict) else WRONG_TYPE

    async def disconnect(self) -> None:
        """Close the connections of this event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await asyncio.shield(client.aclose())

    def close(self) -> None:
        """Nothing is held beside the connections."""


def read(text: bytes, kind: pl.DataType) -> Any:
    """A text as a value of a type; where it is none it stays a text, which is of another type then.

    >>> read(b"0.25", pl.Float64()), read(b"7", pl.Int64()), read(b"true", pl.Boolean()), read(b"x", pl.Float64())
    (0.25, 7, True, 'x')
    """
    plain = text.decode(errors="replace")
    if kind == pl.Boolean:
        return TRUTH.get(text.lower(), plain)
    if kind == pl.Int64:
        return int(text) if INTEGER.fullmatch(text) else plain
    if kind == pl.Float64:
        try:
            number = float(text)
        except ValueError:
            return plain
        return number if math.isfinite(number) else plain
    return plain
