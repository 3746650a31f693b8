"""Where answers are kept: in this process's memory, or in a Redis that all workers share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from streamproc.io.breaker import Breaker, BreakerPolicy
from streamproc.io.redis_client import redis_client

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

LONGEST_KEPT: Final = 1 << 16
"""Characters of an answer: no model may write more."""
LARGEST: Final = 8 * LONGEST_KEPT
"""Bytes of a value in Redis; of one that is longer so many are read, and it is no answer then."""
FORMAT: Final = b"llm1"
"""Begins a value in Redis: what begins otherwise was not written by this version."""
OVERHEAD: Final = 400
"""Bytes that an entry takes beside its texts, about."""
LOOK_UP_SECONDS: Final = 0.1
WRITE_SECONDS: Final = 1.0
"""Nobody waits for a write."""
LOOK_UP_SHARE: Final = 0.2
"""Of the time that there is, no more is spent on looking up."""
CONNECTIONS: Final = 16
MOST_WRITES: Final = 256
"""Answers on their way to Redis; while there are more, others are not kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a model wrote, what it called itself, the hash of the prompt that it was asked with, and how sure it was
    where that is measured."""

    text: str
    model: str
    prompt: str
    confidence: float | None = None

    @property
    def size(self) -> int:
        """Bytes, about."""
        return OVERHEAD + len(self.text.encode(errors="replace")) + len(self.model.encode(errors="replace"))


class Store(Protocol):
    """Answers by key. All is called on one event loop, and nothing of it raises."""

    is_own: bool
    """Whether nobody else can put anything there."""

    async def known(self, keys: Sequence[bytes], until: float) -> list[Kept | None]:
        """What there is of each key, or nothing, well before ``until`` in seconds of the loop's clock."""
        ...

    def keep(self, key: bytes, kept: Kept) -> None:
        """Keep an answer; whoever asks at once is told of it."""
        ...

    def forget(self, prompt: str) -> int:
        """Let go of what was kept of a prompt, by its hash, in this process; how many answers that were."""
        ...

    async def close(self) -> None:
        """Let go of what belongs to the event loop."""
        ...


class MemoryStore:
    """At most ``most`` answers and ``most_bytes`` bytes, each for ``seconds``. Those leave first that were not asked
    for the longest."""

    is_own = True

    def __init__(self, most: int, most_bytes: int, seconds: float) -> None:
        self._most, self._most_bytes, self._seconds = most, most_bytes, seconds
        self._kept = OrderedDict[bytes, tuple[float, Kept]]()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def known(self, keys: Sequence[bytes], until: float) -> list[Kept | None]:
        now = time.monotonic()
        return [self.get(key, now) for key in keys]

    def get(self, key: bytes, now: float) -> Kept | None:
        """What there is of a key, ``now`` in monotonic seconds."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        if entry[0] <= now:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return entry[1]

    def keep(self, key: bytes, kept: Kept) -> None:
        self.put(key, kept, time.monotonic())

    def put(self, key: bytes, kept: Kept, now: float) -> None:
        """Keep an answer from ``now`` on."""
        self._drop(key)
        self._kept[key] = now + self._seconds, kept
        self.bytes += kept.size
        while len(self._kept) > self._most or self.bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def forget(self, prompt: str) -> int:
        gone = [key for key, (_, kept) in self._kept.items() if kept.prompt == prompt]
        for key in gone:
            self._drop(key)
        return len(gone)

    async def close(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def _drop(self, key: bytes) -> None:
        entry = self._kept.pop(key, None)
        if entry is not None:
            self.bytes -= entry[1].size


class RedisStore:
    """Answers under ``prefix`` and the key in hex, each for ``seconds``. How many there are is that Redis's to bound.

    One that is away, slow, or holds something else is as one that is empty.
    """

    is_own = False

    def __init__(self, url: str, prefix: str, seconds: float) -> None:
        """Connects when it is first asked. Raises UserError for what is no address, whose text is never told."""
        self._url, self._prefix, self._seconds = url, prefix.encode(), seconds
        self._client: Redis | None = None
        self._breaker = Breaker(BreakerPolicy(calls=5, wait=2.0))
        self._writes: dict[bytes, tuple[Kept, asyncio.Task[None]]] = {}
        self._told = ""
        redis_client(url, CONNECTIONS)  # what is wrong with the address shows here

    async def known(self, keys: Sequence[bytes], until: float) -> list[Kept | None]:
        """What is still on its way to Redis is known too."""
        missing = [key for key in keys if key not in self._writes]
        found = dict(zip(missing, await self._read(missing, until), strict=True)) if missing else {}
        return [self._writes[key][0] if key in self._writes else found.get(key) for key in keys]

    def keep(self, key: bytes, kept: Kept) -> None:
        if len(self._writes) < MOST_WRITES and len(kept.text) <= LONGEST_KEPT and key not in self._writes:
            self._writes[key] = kept, asyncio.get_running_loop().create_task(self._write(key, kept))

    def forget(self, prompt: str) -> int:
        """Nothing: what nobody asks for any more goes when its time is over."""
        return 0

    async def close(self) -> None:
        for _, write in list(self._writes.values()):
            write.cancel()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _read(self, keys: Sequence[bytes], until: float) -> list[Kept | None]:
        loop = asyncio.get_running_loop()
        seconds = min(LOOK_UP_SECONDS, LOOK_UP_SHARE * (until - loop.time()))
        got = await self._within(seconds, lambda client: _ranges(client, [self._name(key) for key in keys]))
        return [None] * len(keys) if got is None else [unpacked(one) for one in got]

    async def _write(self, key: bytes, kept: Kept) -> None:
        milliseconds = max(1, round(self._seconds * 1000))
        try:
            await self._within(WRITE_SECONDS, lambda client: client.set(self._name(key), packed(kept), px=milliseconds))
        finally:
            self._writes.pop(key, None)

    async def _within(self, seconds: float, call: Any) -> Any:
        """What a call gives in so many seconds; ``None`` for nothing."""
        permit = self._breaker.allows(time.monotonic())
        if permit is None or seconds <= 0:
            return None
        if self._client is None:
            self._client = redis_client(self._url, CONNECTIONS)
        failed: bool | None = None
        try:
            async with asyncio.timeout(seconds):
                got = await call(self._client)
            failed, self._told = False, ""
            return got
        except Exception as error:  # whatever a client may raise; its text may hold anything
            failed = True
            if self._told != type(error).__name__:
                self._told = type(error).__name__
                log.warning("the Redis for answers of language models: %s", self._told)
            return None
        finally:
            self._breaker.ended(permit, failed, time.monotonic())

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()


async def _ranges(client: Redis, names: Sequence[bytes]) -> list[Any]:
    """The beginnings of values: whatever stands there, no more than that is read. What is no text is an error."""
    async with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.getrange(name, 0, LARGEST)
        return await pipeline.execute(raise_on_error=False)


def packed(kept: Kept) -> bytes:
    """An answer as a value in Redis."""
    return FORMAT + orjson.dumps([kept.text, kept.model, kept.prompt, kept.confidence])


def unpacked(raw: object) -> Kept | None:
    """The answer in a value; ``None`` for what was not written so.

    >>> unpacked(packed(Kept("{}", "m", "ab"))), unpacked(b"")
    (Kept(text='{}', model='m', prompt='ab', confidence=None), None)
    """
    if not isinstance(raw, bytes) or not raw.startswith(FORMAT) or len(raw) > LARGEST:
        return None
    try:
        parts = orjson.loads(raw[len(FORMAT) :])
    except orjson.JSONDecodeError:
        return None
    match parts:
        case [str(text), str(model), str(prompt), (float() | None) as sure] if len(text) <= LONGEST_KEPT:
            return Kept(text, model, prompt, sure)
        case _:
            return None
