"""What a contestant is: a name, and a command that does a job until it is told to end."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs import JOBS, Job, Topics

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setup:
    """One run: where Kafka is, what to do, the topic to read, the prefix of the topics to write, a folder to use."""

    address: str
    job: Job
    input: str
    topics: Topics
    folder: Path

    @property
    def words(self) -> list[str]:
        """The arguments of a contestant that is one of our scripts."""
        return [self.address, self.job.name, self.input, self.topics.prefix]


class Unavailable(Exception):
    """The contestant cannot run here; the message says why."""


@dataclass(frozen=True)
class Contestant:
    """``command`` raises Unavailable where something is missing; it may prepare files in the run's folder.

    ``copies``: it does no job, so its outputs are not compared. ``makes_topics``: it makes its own output topics.
    """

    name: str
    guarantee: str
    command: Callable[[Setup], list[str]]
    copies: bool = False
    makes_topics: bool = False


def arguments() -> Setup:
    """The setup from a script's command line."""
    parser = argparse.ArgumentParser()
    for name in ("address", "job", "input", "prefix"):
        parser.add_argument(name)
    given = parser.parse_args()
    return Setup(given.address, JOBS[given.job], given.input, Topics(given.prefix), Path.cwd())
