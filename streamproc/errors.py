"""Every exception that streamproc raises, in one tree.

What data can cause is a value (a dead letter, an answer with a reason) and never one of these::

    StreamprocError               exit 4   a bug, unless a subclass says otherwise
    ├── UserError                 exit 1   the user's input; carries a hint
    │   ├── PipelineError                  a pipeline file with problems, all of them
    │   ├── ExpressionError                one expression, with the place inside it
    │   └── LaneStopped                    a lane that must not go on by itself; the hint says how to
    │       └── HeaderNotText              a record that cannot be read with its headers
    └── EnvironmentFault          exit 3   the surroundings: no broker, no Java
        ├── BrokerUnavailable
        └── BrokerTooOld

``FencedOffsets`` and ``Stalled`` end a worker process on purpose (exit 4): a supervisor starts it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from streamproc.wording import counted


class Exit(IntEnum):
    """Exit codes of every command."""

    GOOD = 0
    INPUT = 1
    USAGE = 2
    ENVIRONMENT = 3
    BUG = 4


class StreamprocError(Exception):
    """The root. ``message`` is one line for a person, ``hint`` says what to do about it."""

    exit_code: Exit = Exit.BUG

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(StreamprocError):
    """Something that the user wrote or asked for cannot be."""

    exit_code = Exit.INPUT


class EnvironmentFault(StreamprocError):
    """Something that streamproc needs is not there."""

    exit_code = Exit.ENVIRONMENT


class BrokerUnavailable(EnvironmentFault):
    """No broker answered at the address within the time allowed."""


class BrokerTooOld(EnvironmentFault):
    """The broker lacks a protocol version that exactly-once lanes need."""


class LaneStopped(UserError):
    """A lane that would lose or repeat something if it went on. ``streamproc reset`` is the way out."""


class HeaderNotText(LaneStopped):
    """A record whose header has a name that is not UTF-8, at ``offset`` or shortly after it."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        place = f"at offset {offset} or shortly after it"
        super().__init__(
            f"{topic}-{partition}: the name of a record's header is not UTF-8, {place}",
            f"go on behind it with `streamproc reset FILE --lane {partition} --to …`",
        )
        self.topic, self.partition = topic, partition


class FencedOffsets(StreamprocError):
    """The group has moved on: offsets of an older generation were refused."""


class Stalled(StreamprocError):
    """A lane had work and made no progress for the watchdog's time."""


class ExpressionError(UserError):
    """One expression is not allowed or not well typed.

    ``offset`` is the 0-based index of the offending character in the expression's text. ``unknown`` is the name that
    is neither a column nor a param, where that is what is wrong.
    """

    def __init__(self, message: str, hint: str = "", offset: int = 0, *, unknown: str | None = None) -> None:
        super().__init__(message, hint)
        self.offset = offset
        self.unknown = unknown


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a pipeline file. Lines and columns count from 1."""

    file: Path
    line: int
    column: int
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: {self.message}"
        return f"{place}\n    {self.remedy}" if self.remedy else place


class PipelineError(UserError):
    """A pipeline file that cannot run, with everything that is wrong with it, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__(f"{counted(len(self.problems), 'problem')} in the pipeline file")

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and everything that it came from, itself first. aiokafka wraps what a broker said."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
