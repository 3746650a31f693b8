"""streamproc: Kafka events to decisions, exactly once.

Most users write a pipeline file and run ``streamproc``. What is here is for processors of one's own:
see docs/processors.md and examples/counter.
"""

from typing import TYPE_CHECKING, Any

from streamproc.core.processor import (
    Answer,
    Ask,
    Batch,
    Effects,
    Lookup,
    Output,
    Processor,
    Records,
    Score,
    Seen,
    State,
    Steps,
)
from streamproc.kafka.agent import Agent

if TYPE_CHECKING:
    from streamproc.agents import run_agents

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Answer",
    "Ask",
    "Batch",
    "Effects",
    "Lookup",
    "Output",
    "Processor",
    "Records",
    "Score",
    "Seen",
    "State",
    "Steps",
    "__version__",
    "run_agents",
]


def __getattr__(name: str) -> Any:
    # Faust and aiokafka take a while to import, and the command line wants to answer at once.
    if name == "run_agents":
        from streamproc.agents import run_agents

        return run_agents
    raise AttributeError(name)
