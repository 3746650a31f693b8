"""What runs on lanes: a processor with the topics that it reads and the tables that it keeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamproc.core.processor import Answer, Ask, Processor, Seen
from streamproc.errors import UserError

Answerer: TypeAlias = Callable[[Sequence[Ask]], Awaitable[list[Answer]]]
SeenNow: TypeAlias = Callable[[], Seen]


@dataclass(frozen=True, slots=True)
class Agent:
    """A processor on lanes.

    The topics must have equal partition counts: partition ``p`` of all of them is one lane, with one state.
    ``writes`` names the topics that the processor sends to; they must exist before the agent starts.
    ``start`` says where a lane begins that has never committed anything.
    ``patience``: seconds by which its works may be put off where there is little to do, so that they are fewer.
    """

    name: str
    topics: tuple[str, ...]
    processor: Processor
    tables: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    start: Literal["earliest", "latest"] = "earliest"
    patience: float = 0.0

    def __post_init__(self) -> None:
        if not self.topics:
            raise UserError(f"agent {self.name!r} reads no topic", "name at least one in `topics`")

    def changelog(self, app: str) -> str:
        """The topic that holds the lanes' state, compacted; as many partitions as the topics that the agent reads."""
        return f"{app}.{self.name}.changelog"


def by_topic(agents: Sequence[Agent]) -> dict[str, Agent]:
    """The one agent that reads each topic. Raises UserError where two would share a topic's committed offset."""
    readers: dict[str, Agent] = {}
    for agent in agents:
        for topic in agent.topics:
            if topic in readers:
                raise UserError(
                    f"topic {topic!r} is read by two agents, {readers[topic].name!r} and {agent.name!r}",
                    "a group commits one offset a partition: run one of them as an application of its own",
                )
            readers[topic] = agent
    return readers
