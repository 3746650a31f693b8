"""What a worker holds of its group at the moment: shared by those who fetch, run, commit and look after the lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from streamproc.kafka.group import Member
from streamproc.kafka.lane import Lane, LaneId
from streamproc.kafka.vitals import Fetcher


@dataclass(slots=True)
class Held:
    """The open lanes, and the assignment that they came with.

    ``epoch`` counts assignments, ``member`` is who the worker is in the group since the last one. ``freed`` is set
    when a lane can take a batch, ``settled`` when work of a lane has come to its end, either way.
    """

    lanes: dict[LaneId, Lane] = field(default_factory=dict)
    epoch: int = 0
    member: Member | None = None
    fetcher: Fetcher | None = None
    closing: bool = False
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    def free(self) -> None:
        """Lanes can take a batch: who waits for that goes on, and so does a fetch without them."""
        self.freed.set()
        if self.fetcher is not None:
            self.fetcher.interrupt()

    async def all(self, condition: Callable[[Lane], bool], among: Collection[Lane] | None = None) -> None:
        """Wait until it is true of every lane: of those given, or of all that are held at the time."""
        while not all(map(condition, self.lanes.values() if among is None else among)):
            self.settled.clear()
            await self.settled.wait()

    async def seek(self, lanes: Iterable[Lane]) -> None:
        """Let the consumer go on where lanes are committed."""
        assert self.fetcher is not None
        await self.fetcher.seek_all({tp: at for lane in lanes for tp, at in lane.positions.items()})
