"""What is particular about the demonstration of one example."""

from __future__ import annotations

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


class Story(Protocol):
    """What decisions tell, as they are read back."""

    def progress(self, share: float) -> None:
        """So large a share of the events has been decided."""

    def see(self, value: bytes, key: bytes, timestamp: int) -> bool:
        """Take a decision into account; whether it is the first one on its event."""

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
