"""Online stores: rows of what is kept elsewhere, each ask within its time. A failure is an answer with a reason."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from streamproc.core.names import NO_SUCH_KEY
from streamproc.core.processor import Answer, Lookup
from streamproc.io.breaker import Breaker, BreakerPolicy, BreakerState
from streamproc.io.cache import Cache, CachePolicy, Row
from streamproc.io.model import Rejected, Starting, Unavailable

log = logging.getLogger(__name__)

Found: TypeAlias = "Row | str"
"""A row, ``None`` where there is nothing of the key, or the reason why what is there cannot be used."""


class Rows(Protocol):
    """Where the rows of a store are.

    It may raise Unavailable, Starting, Rejected and TimeoutError, whose texts hold nothing of what was asked.
    """

    @property
    def version(self) -> str:
        """A hash of what decides the rows, where that is known; empty for none."""
        ...

    async def get(self, keys: Sequence[bytes], deadline: float) -> list[Found]:
        """One for each key, by ``deadline`` in seconds of ``time.monotonic``. Cancelling it is safe."""
        ...

    async def disconnect(self) -> None:
        """Let go of what belongs to the event loop; the next call connects again."""
        ...

    def close(self) -> None:
        """Let go of the rest."""
        ...


@dataclass(frozen=True, slots=True)
class StorePolicy:
    """The seconds that one ask may take, how many may be under way, when it is not asked, and what is kept."""

    seconds: float
    in_flight: int = 8
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    cache: CachePolicy | None = None


class Store:
    """Answers look-ups from rows that are kept elsewhere: one call an ask, for the keys that are not in the cache."""

    def __init__(self, name: str, rows: Rows, policy: StorePolicy) -> None:
        self.name = name
        self._rows, self._policy = rows, policy
        self._breaker = Breaker(policy.breaker)
        self._cache = None if policy.cache is None else Cache(policy.cache)
        self._under_way = 0
        self._aside: ThreadPoolExecutor | None = None
        self._told = ""

    @property
    def state(self) -> BreakerState:
        """How its breaker stands."""
        return self._breaker.state

    async def __call__(self, ask: Lookup) -> Answer:
        """One entry per key, never an exception."""
        now = time.monotonic()
        found: dict[bytes, Found] = {} if self._cache is None else {**self._cache.known(ask.keys, now)}
        missing = [key for key in ask.keys if key not in found] if found else list(ask.keys)
        reason = ""
        if missing:
            got = await self._got(missing)
            if isinstance(got, str):
                reason = got
            else:
                fresh = dict(zip(missing, got, strict=True))
                found |= fresh
                if self._cache is not None:
                    sound = {key: row for key, row in fresh.items() if not isinstance(row, str)}
                    self._cache.keep(sound, time.monotonic())
        return _answer([found.get(key, reason) for key in ask.keys], self._rows.version, reason)

    def now(self, ask: Lookup) -> Answer:
        """The same where there is no event loop, or one that cannot wait."""
        if self._aside is None:
            self._aside = ThreadPoolExecutor(1, "store")
        return self._aside.submit(asyncio.run, self._once(ask)).result()

    def close(self) -> None:
        """Let go of what is open."""
        self._rows.close()
        if self._aside is not None:
            self._aside.shutdown()

    async def disconnect(self) -> None:
        """Let go of what belongs to this event loop."""
        await self._rows.disconnect()

    async def _once(self, ask: Lookup) -> Answer:
        try:
            return await self(ask)
        finally:
            await self._rows.disconnect()

    async def _got(self, keys: list[bytes]) -> list[Found] | str:
        """What there is of some keys, or why nobody knows."""
        if self._under_way >= self._policy.in_flight:
            return "busy"
        permit = self._breaker.allows(time.monotonic())
        if permit is None:
            return "breaker_open"
        self._under_way += 1
        try:
            got = await self._within(keys)
        except Starting:  # nobody waited for it, so there is nothing to be spared
            self._breaker.withdrawn(permit)
            return "unavailable"
        except BaseException:  # the lane is gone: how the call ends is nobody's to know
            self._breaker.withdrawn(permit)
            raise
        finally:
            self._under_way -= 1
        self._breaker.ended(permit, isinstance(got, str), time.monotonic())
        return got

    async def _within(self, keys: list[bytes]) -> list[Found] | str:
        seconds = self._policy.seconds
        try:
            async with asyncio.timeout(seconds):
                got = await self._rows.get(keys, time.monotonic() + seconds)
        except TimeoutError:
            return self._failed("timeout", "no answer in time")
        except Starting:
            raise
        except Unavailable as error:
            return self._failed("unavailable", str(error))
        except Rejected as error:
            return self._failed("error", str(error))
        except Exception as error:  # whatever a client may raise; its text may quote a key
            return self._failed("error", type(error).__name__)
        if len(got) != len(keys):
            return self._failed("error", "another number of rows than keys")
        self._told = ""
        return got

    def _failed(self, reason: str, what: str) -> str:
        """The reason, told in the log when it is another one than before: a store that is away fails every batch."""
        if self._told != what:
            log.warning("the store %s: %s", self.name, what)
            self._told = what
        return reason


def _answer(found: Sequence[Found], version: str, health: str) -> Answer:
    reasons = [NO_SUCH_KEY if one is None else one if isinstance(one, str) else None for one in found]
    values = [one if isinstance(one, tuple) else None for one in found]
    return Answer(values, reasons, version, health)
