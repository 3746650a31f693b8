"""A YAML file with the place of everything in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import yaml

from streamproc.errors import PipelineError, Problem, UserError

Path_: TypeAlias = tuple[str | int, ...]
MAX_BYTES = 1 << 20
MAX_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: its key's and its own line and column, from 1. ``inline`` says that character ``n`` of the
    text is in column ``column + n``."""

    line: int
    column: int
    key_line: int
    key_column: int
    inline: bool = False


@dataclass(slots=True)
class Document:
    """The data of one file, and where each part of it stands."""

    file: Path
    data: Any
    places: dict[Path_, Place] = field(default_factory=dict)
    kept: dict[Path_, list[int]] = field(default_factory=dict)
    """For lists of which items were left out: the numbers in the file of those that are left."""
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path_) -> Place:
        """The place of a value, or of the nearest thing around it that is there."""
        path = self.original(path)
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, 1, 1, 1))

    def original(self, path: Path_) -> Path_:
        """A path as it is in the file, where items of lists were left out."""
        real: Path_ = ()
        for part in path:
            kept = self.kept.get(real) if isinstance(part, int) else None
            real = (*real, kept[part] if kept is not None and isinstance(part, int) and part < len(kept) else part)
        return real

    def problem(self, path: Path_, message: str, remedy: str = "", *, at_key: bool = False, offset: int = 0) -> None:
        """Note something that is wrong at a value (or at its key), ``offset`` characters into its text."""
        place = self.place(path)
        line, column = (place.key_line, place.key_column) if at_key else (place.line, place.column)
        if place.inline and not at_key:
            column += offset
        self.problems.append(Problem(self.file, line, column, message, remedy))


def read(file: Path) -> Document:
    """Parse a file. Raises UserError if it cannot be read, PipelineError if it is no YAML."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {file}: {error.strerror}", "`streamproc init DIR` makes a pipeline to start from"
        ) from error
    if len(raw) > MAX_BYTES:
        raise UserError(f"{file} is larger than {MAX_BYTES} bytes", "a pipeline file is a few kilobytes")
    return parse(file, raw.decode("utf-8", errors="replace"))


def parse(file: Path, text: str) -> Document:
    """Parse YAML text that stands in ``file``. Raises PipelineError where it is none."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise PipelineError([Problem(file, 1, 1, "the file is empty", "begin with `pipeline: NAME`")])
        document = Document(file, None)
        for path, place in _walk(node, (), document, 0):
            document.places[path] = place
        document.data = _construct(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise PipelineError([Problem(file, line, column, f"not YAML: {error.problem}", _yaml_hint(error))]) from error
    except yaml.YAMLError as error:
        raise PipelineError([Problem(file, 1, 1, f"not YAML: {error}")]) from error
    return document


class _Loader(yaml.SafeLoader):
    """Plain scalars as YAML 1.2's core schema has them: no dates, no ``on`` and ``no`` as booleans, no base 60."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^(?:<<)$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _construct(node: yaml.Node) -> Any:
    constructor = yaml.constructor.SafeConstructor()
    return constructor.construct_document(node)


def _yaml_hint(error: yaml.MarkedYAMLError) -> str:
    if "mapping values are not allowed" in (error.problem or ""):
        return "put an expression that contains `: ` into quotes"
    return "check the indentation and the quotes around it"


def _walk(
    node: yaml.Node, path: Path_, document: Document, depth: int, key: yaml.Node | None = None
) -> Iterator[tuple[Path_, Place]]:
    start, key_start = node.start_mark, (key or node).start_mark
    quoted = isinstance(node, yaml.ScalarNode) and node.style in ("'", '"')
    inline = isinstance(node, yaml.ScalarNode) and node.style not in ("|", ">") and start.line == node.end_mark.line
    column = start.column + 1 + (1 if quoted and inline else 0)
    yield path, Place(start.line + 1, column, key_start.line + 1, key_start.column + 1, inline)
    if depth > MAX_DEPTH:
        raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=start)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            name = str(key_node.value)
            line = key_node.start_mark.line + 1
            if name in seen:
                document.problems.append(
                    Problem(
                        document.file, line, key_node.start_mark.column + 1,
                        f"`{name}` stands here twice, first in line {seen[name]}", "keep one of them",
                    )
                )  # fmt: skip
            seen[name] = line
            yield from _walk(value_node, (*path, name), document, depth + 1, key_node)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), document, depth + 1)
