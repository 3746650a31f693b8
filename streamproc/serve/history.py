"""Decisions that are older than what a door knows: found in their topic, by few at a time and within a time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from streamproc.core.records import lane_of
from streamproc.errors import BrokerUnavailable, UserError
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import reading
from streamproc.serve.answers import BEGINS
from streamproc.serve.problems import Problem

AT_ONCE: Final = 2
SINCE: Final = timedelta(days=1)


class History:
    """Searches the partition that a decision's id names."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection, self._topic = connection, topic
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._limits = set[asyncio.Timeout]()
        self._ended = False

    def end(self) -> None:
        """Searches end, now and later: their time is over."""
        self._ended = True
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    async def find(self, decision: str, since: float | None, seconds: float) -> bytes | None:
        """The newest record with an id, not older than ``since`` (seconds ago). Raises Problem."""
        lane = lane_of(decision)
        if lane is None:
            return None
        if self._turns.locked():
            raise Problem("too-many", "others look for old decisions: try again", wait=2)
        start = datetime.now(UTC) - (SINCE if since is None else timedelta(seconds=since))
        try:
            async with self._turns, asyncio.timeout(0 if self._ended else seconds) as limit:
                self._limits.add(limit)
                try:
                    return await self._newest(decision, lane, start)
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            raise Problem(
                "timeout", f"it was not found within {seconds:.3g} s: `since` makes the search shorter"
            ) from None
        except (BrokerUnavailable, UserError) as error:
            raise Problem("broker-away", "the decisions cannot be read", wait=2) from error

    async def _newest(self, decision: str, lane: int, start: datetime) -> bytes | None:
        found, begins = None, BEGINS + decision.encode() + b'"'
        async with reading(self._connection, self._topic) as reader:
            if lane >= reader.partitions:
                return None
            async for records in reader.scan(start, only=[lane]):
                for record in records:
                    if record.value is not None and record.value.startswith(begins):
                        found = record.value
        return found
