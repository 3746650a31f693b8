"""The shapes of the table that is allow-list, dispatch of the visitor and docs/expressions.md at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from streamproc.core.expressions.kinds import Kind
from streamproc.core.expressions.node import Built, Node

Plain: TypeAlias = "bool | int | float | str | None"

# The columns that every documented example may use; those it does not name are null.
EXAMPLE_COLUMNS: Mapping[str, Kind] = {
    "a": Kind.INTEGER,
    "b": Kind.INTEGER,
    "x": Kind.NUMBER,
    "y": Kind.NUMBER,
    "s": Kind.TEXT,
    "t": Kind.TEXT,
    "flag": Kind.BOOLEAN,
    "other": Kind.BOOLEAN,
    "ts": Kind.TIMESTAMP,
    "ts2": Kind.TIMESTAMP,
}


@dataclass(frozen=True, slots=True)
class Example:
    """An expression, the columns it is given (timestamps as ISO text) and what comes out."""

    expression: str
    inputs: Mapping[str, Plain]
    result: Plain


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the docs: what can be written, what it means, what it makes of null."""

    group: str
    signature: str
    meaning: str
    nulls: str
    example: Example


@dataclass(frozen=True, slots=True)
class Param:
    """One argument of a function. ``constant``: a literal or param, known at load."""

    name: str
    kinds: Sequence[Kind]
    constant: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """One allowed function.

    ``repeated``: the last argument may come any number of times. ``alike``: all arguments become one kind.
    ``carries``: takes floats that may be NaN or infinite, and is so itself whenever one of them is.
    """

    names: tuple[str, ...]
    params: Sequence[Param]
    build: Callable[[Sequence[Node]], Built]
    entry: Entry
    repeated: bool = False
    alike: bool = False
    carries: bool = field(default=False)

    @property
    def name(self) -> str:
        """Its first name, which canonical text and messages use; the others are synonyms."""
        return self.names[0]
