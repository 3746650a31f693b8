"""What is particular about the demonstration of one example."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from streamproc.core.plan import Plan
from streamproc.demo.events import Events
from streamproc.demo.surroundings import Worker
from streamproc.kafka.connection import Connection

Say = Callable[[str], None]


class Due:
    """What happens when so large shares of the events have been decided."""

    def __init__(self, *shares: float) -> None:
        self._at = {share: asyncio.Event() for share in shares}

    def progress(self, share: float) -> None:
        """So large a share has been decided."""
        for when, event in self._at.items():
            if share >= when:
                event.set()

    async def wait(self, share: float) -> None:
        """Until so large a share has been decided."""
        await self._at[share].wait()


class Story(Protocol):
    """What decisions tell, as they are read back."""

    due: Due

    def see(self, number: int, value: bytes, key: bytes, timestamp: int) -> None:
        """Take the decision on an event into account, which was written then (in ms)."""

    def revise(self, value: bytes, key: bytes) -> None:
        """Take into account what people or time have decided after it."""

    def as_json(self) -> dict[str, Any]:
        """The figures, as ``streamproc demo --json`` prints them."""


@dataclass(frozen=True, slots=True)
class Told:
    """A table for people: rows of what, and of figures."""

    title: str
    rows: Sequence[tuple[str, str]]


class Show(Protocol):
    """Sends the events of an example, lets something happen meanwhile, and says what it came to.

    Without a story, only what decides is to be seen.
    """

    example: ClassVar[str]
    """The folder of the example, and the argument of the command."""
    workers: ClassVar[int]
    seconds: ClassVar[float]
    """Within so many the events are sent, where something is told."""
    paced: ClassVar[bool]
    """Whether they are also sent so where nothing is told: what decides waits for others, and is not to be hurried."""

    @property
    def story(self) -> Story | None:
        """What decisions tell; complete once it was asked what they came to."""

    def sample(self, count: int | None, bad_share: float) -> Events:
        """The events; as many as it takes to show something, unless it is said how many."""

    def change(self, file: Path, stack: ExitStack) -> None:
        """Change a copy of the example for what happens, and start what that needs."""

    def happening(
        self, connection: Connection, plan: Plan, worker: Worker, say: Say
    ) -> AbstractAsyncContextManager[None]:
        """What happens while events are decided."""

    async def came_to(self, connection: Connection, plan: Plan) -> dict[str, Any] | None:
        """The measures of business, where there are any."""

    def told(self, figures: dict[str, Any]) -> Told:
        """The story's figures for people."""
