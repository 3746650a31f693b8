"""What all workers share of a language model, in a Redis: scripts that are run within a time, one after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from streamproc.io.breaker import Breaker, BreakerPolicy, Permit
from streamproc.io.redis_client import redis_client

if TYPE_CHECKING:
    from redis.asyncio import Redis

PATIENCE: Final = 0.25
"""A Redis must not take the time that calls have."""
BREAKER: Final = BreakerPolicy(failures=0.5, calls=4, wait=1.0)
NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""
"""Begins scripts that need to know what time it is: there is one clock for all workers."""


@dataclass
class Shared:
    """``prefix`` begins the names of keys. All of a model's are in one slot of a cluster. A script is waited for
    ``patience`` seconds, once it is its turn.

    Scripts are run in the order in which they are asked for: who came first has the earlier place.
    """

    url: str
    prefix: str
    patience: float = PATIENCE
    _breaker: Breaker = field(default_factory=lambda: Breaker(BREAKER))
    _scripts: dict[str, Any] = field(default_factory=dict)
    _client: Redis | None = None
    _turns: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        redis_client(self.url, 1)  # what is wrong with the address shows here

    async def run(
        self,
        script: str,
        keys: Sequence[str],
        *args: int | str,
        anyway: bool = False,
        sent: Callable[[], None] | None = None,
    ) -> list[int] | None:
        """What a script says; ``None`` where that is not known, and it may have been run or not. ``sent`` is called
        just before it could be run.

        A Redis that has just failed is not asked, or everybody would wait for it; but ``anyway``.
        """
        async with self._turns:
            permit = self._breaker.allows(time.monotonic())
            if permit is None and not anyway:
                return None
            if sent is not None:
                sent()
            return await self._run(script, keys, args, permit)

    async def _run(
        self, script: str, keys: Sequence[str], args: Sequence[int | str], permit: Permit | None
    ) -> list[int] | None:
        from redis.exceptions import RedisError

        failed: bool | None = None  # whoever is cancelled has no time left: that says nothing of the Redis
        try:
            async with asyncio.timeout(self.patience):
                said: list[int] = await self._script(script)(keys=keys, args=args)
            failed = False
            return said
        except (RedisError, OSError, TimeoutError):
            failed = True
            return None
        finally:
            if permit is not None:
                self._breaker.ended(permit, failed, time.monotonic())

    def _script(self, text: str) -> Any:
        if self._client is None:
            self._client = redis_client(self.url, 1)
        if text not in self._scripts:
            self._scripts[text] = self._client.register_script(text)
        return self._scripts[text]

    async def close(self) -> None:
        client, self._client, self._scripts = self._client, None, {}
        if client is not None:
            await client.aclose()
