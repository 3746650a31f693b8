"""A pipeline file as data, with the place of everything in it and the problems that were found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from streamproc.errors import EnvironmentFault, Problem
from streamproc.plan.offsets import locate

Path_: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: its node, and the node of its key (the value itself for items of a list)."""

    key: yaml.Node
    value: yaml.Node


@dataclass(slots=True)
class Document:
    """The data of one file, and where each part of it stands.

    ``broken`` holds the paths whose values are wrong and have been told of: nothing more is said about them.
    ``fault`` is what is missing on this machine to check all of it. Without ``prompts`` those that the file names are
    not read.
    """

    file: Path
    text: str
    data: Any = None
    places: dict[Path_, Place] = field(default_factory=dict)
    broken: set[Path_] = field(default_factory=set)
    fault: EnvironmentFault | None = None
    prompts: bool = True
    _problems: dict[Problem, None] = field(default_factory=dict)
    _warnings: dict[Problem, None] = field(default_factory=dict)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was noted, in the order in which it was."""
        return tuple(self._problems)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed, and perhaps not meant."""
        return tuple(self._warnings)

    def has(self, path: Path_) -> bool:
        """Does the file say anything here, right or wrong, be it under a misspelt key?"""
        return path in self.places or self.is_broken(path)

    def is_broken(self, path: Path_) -> bool:
        """Has this value, or one around it, been told of?"""
        return any(path[:end] in self.broken for end in range(len(path) + 1))

    def is_broken_within(self, *paths: Path_) -> bool:
        """Has any of these values, or one within it, been told of? What is around them does not count."""
        return any(broken[: len(path)] == path for broken in self.broken for path in paths)

    def spot(self, path: Path_, *, at_key: bool = False, offset: int | None = None) -> tuple[int, int]:
        """Line and column of a value, or of the nearest thing around it that is there.

        ``offset`` is the number of a character in the value's text.
        """
        there = path
        while there and there not in self.places:
            there = there[:-1]
        place = self.places.get(there)
        if place is None:
            return 1, 1
        if offset is not None and there == path and isinstance(place.value, yaml.ScalarNode):
            return locate(self.text, place.value, offset)
        mark = (place.key if at_key else place.value).start_mark
        return mark.line + 1, mark.column + 1

    def problem(
        self, path: Path_, message: str, remedy: str = "", *, at_key: bool = False, offset: int | None = None
    ) -> None:
        """Note something that is wrong at a value (or at its key), ``offset`` characters into its text."""
        self.note(*self.spot(path, at_key=at_key, offset=offset), message, remedy)

    def warn(self, path: Path_, message: str, remedy: str) -> None:
        """Note something at a value that is allowed, and perhaps not meant."""
        self._warnings[Problem(self.file, *self.spot(path), f"warning: {message}", remedy)] = None

    def note(self, line: int, column: int, message: str, remedy: str = "") -> None:
        """Note a problem at a place, once: through an alias the same place is met several times."""
        self._problems[Problem(self.file, line, column, message, remedy)] = None
