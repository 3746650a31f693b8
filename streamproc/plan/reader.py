"""A file to a document: bytes, text, YAML, data. All is bounded: size, depth, what aliases make of it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from streamproc.errors import PipelineError, Problem, UserError
from streamproc.plan.document import Document, Path_, Place
from streamproc.plan.faults import of_yaml
from streamproc.plan.offsets import position

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_VALUES = 100_000
LONGEST_NUMBER = 400
BEGIN = "begin with `pipeline: NAME`; `streamproc init DIR` makes a whole one"

_TAG = "tag:yaml.org,2002:"
# YAML 1.2's core schema: no dates, no `on` and `no` as booleans, no base 60.
_PLAIN = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^(?:<<)$", "<"),
)


def read(file: Path) -> Document:
    """The document in a file. Raises UserError if it cannot be read, PipelineError if it is no YAML."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        hint = "name the pipeline file" if file.is_dir() else "`streamproc init DIR` makes a pipeline to start from"
        raise UserError(f"cannot read {file}: {error.strerror}", hint) from error
    if len(raw) > MAX_BYTES:
        raise UserError(f"{file} is larger than {MAX_BYTES >> 20} MB", "a pipeline file is a few kilobytes")
    return parse(file, _decode(file, raw))


def parse(file: Path, text: str) -> Document:
    """The document of YAML text that stands in ``file``. Raises PipelineError where it is none."""
    document = Document(file, text)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise PipelineError([Problem(file, 1, 1, "the file is empty", BEGIN)])
        document.places[()] = Place(node, node)
        document.data = _Tree(document).value(node, (), 0)
    except yaml.YAMLError as error:
        raise PipelineError([Problem(file, *of_yaml(error, text))]) from error
    return document


def _decode(file: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig", errors="replace")
        line, column = position(before, len(before))
        what = "it looks like UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else f"byte 0x{raw[error.start]:02x}"
        problem = Problem(file, line, column, f"the file is not UTF-8: {what}", "save it as UTF-8")
        raise PipelineError([problem]) from error


class _Loader(yaml.SafeLoader):
    """Composes nodes, and stops where they stand too deep inside one another."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _bounded("nested too deeply", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _name, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), list(_first))


class _Tree:
    """Makes data of nodes, and notes where each value stands. Aliases are written out, and counted."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0

    def value(self, node: yaml.Node, path: Path_, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _bounded(f"more than {MAX_VALUES:,} values, aliases written out", node.start_mark)
        if depth > MAX_DEPTH:
            raise _bounded("nested too deeply", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._place((*path, i), item, item, depth) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _place(self, path: Path_, key: yaml.Node, node: yaml.Node, depth: int) -> Any:
        self._document.places[path] = Place(key, node)
        return self.value(node, path, depth + 1)

    def _mapping(self, node: yaml.MappingNode, path: Path_, depth: int) -> dict[str, Any]:
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        self._pairs(node, path, pairs, depth)
        return {name: self._place((*path, name), *pair, depth) for name, pair in pairs.items()}

    def _pairs(
        self,
        node: yaml.MappingNode,
        path: Path_,
        pairs: dict[str, tuple[yaml.Node, yaml.Node]],
        depth: int,
    ) -> None:
        """Add the node's own pairs, and those that it merges in with ``<<`` and does not have itself."""
        own: dict[str, int] = {}
        merged: list[yaml.Node] = []
        before = ""
        for key, value in node.value:
            self._count += 1
            if not isinstance(key, yaml.ScalarNode):
                hint = "put a text that begins with `{` or `[` into quotes"
                self._broken(path, key, "a key cannot be a list or a mapping", hint)
                continue
            name = str(key.value)
            if key.tag == f"{_TAG}merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif self._stray(node, key, value):
                self._broken((*path, before), key, *_after_comma(name, before))
            elif name in own:
                self._broken(None, key, f"`{name}` stands here twice, first in line {own[name]}", "keep one of them")
            else:
                own[name] = key.start_mark.line + 1
                pairs.setdefault(name, (key, value))
            before = name
        for one in merged:
            if not isinstance(one, yaml.MappingNode):
                self._broken(None, one, "`<<` merges mappings", "give it an alias of a mapping: `<<: *name`")
            elif depth > MAX_DEPTH or self._count > MAX_VALUES:
                raise _bounded("`<<` merges too much", one.start_mark)
            else:
                self._pairs(one, path, pairs, depth + 1)

    def _stray(self, node: yaml.MappingNode, key: yaml.Node, value: yaml.Node) -> bool:
        """Is this a piece between commas that has no value at all, in a mapping that is written in braces?"""
        between = self._document.text[key.end_mark.index : value.start_mark.index]
        empty = isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None
        return bool(node.flow_style) and empty and ":" not in between

    def _scalar(self, node: yaml.Node, path: Path_) -> Any:
        text: str = node.value
        match node.tag.removeprefix(_TAG):
            case "str" | "merge":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" | "float" as kind if re.fullmatch(_PLAIN[2][1], text):
                number = int(text) if kind == "int" and len(text) < LONGEST_NUMBER else float(text)
                if math.isfinite(number):
                    return number
                self._broken(path, node, "the number is too large", "put it into quotes, if it is meant as a text")
            case tag:
                written = tag if tag.startswith("!") else f"!!{tag}"
                hint = f"take it out; put a text that begins with `!` into quotes: '{written} …'"
                self._broken(path, node, f"tags such as `{written}` are not read here", hint)
        return None

    def _broken(self, path: Path_ | None, node: yaml.Node, message: str, remedy: str) -> None:
        mark = node.start_mark
        self._document.note(mark.line + 1, mark.column + 1, message, remedy)
        if path is not None:
            self._document.broken.add(path)


def _after_comma(name: str, before: str) -> tuple[str, str]:
    if not before:
        return f"`{name}` has no value", f"write `{name}: …`"
    return (
        f"the comma before `{name}` ended the value of `{before}`",
        f"put the whole value of `{before}` into quotes",
    )


def _bounded(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
