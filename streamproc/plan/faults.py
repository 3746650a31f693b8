"""What PyYAML says of a file that is not YAML, in the words of somebody who wrote one."""

from __future__ import annotations

import re
from typing import TypeAlias

import yaml
from yaml.reader import ReaderError

from streamproc.plan.offsets import position

Fault: TypeAlias = tuple[int, int, str, str]
"""Line, column, what is wrong, and what to do."""

_INDENT = "check the indentation, and that quotes go around the whole value"
_QUOTES = "put the whole value into quotes: '…'"

# What PyYAML's problem begins with, what is said, and the remedy. `{0}` is what PyYAML has in quotes.
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"mapping values are not allowed",
        "a `:` is not expected here",
        "put a value that contains `: ` into quotes, and check the indentation",
    ),
    (r"found character '\\t'", "a tab", "indent with spaces"),
    (r"found character '(.+)' that cannot start", "a value cannot begin with `{0}`", _QUOTES),
    (
        r"found undefined alias '(.+)'",
        "`*{0}` refers to nothing",
        "an alias needs an anchor `&{0}` above it; put a text that begins with `*` into quotes",
    ),
    (r"found unexpected end of stream", "a quote that is never closed", "close it"),
    (
        r"found another document|but found another document",
        "a second document begins here",
        "keep one pipeline a file",
    ),
    (
        r"sequence entries are not allowed",
        "a list cannot begin here",
        "begin it on a line of its own, with `- `",
    ),
    (
        r"could not find expected ':'",
        "a key without a `:`",
        "write `key: value`; quotes go around a text of many lines",
    ),
    (
        r"expected ',' or '\}'",
        "a `{{` that is not closed properly",
        "separate with commas, close it with `}}`; " + _QUOTES,
    ),
    (r"expected ',' or '\]'", "a `[` that is not closed properly", "separate with commas, close it with `]`"),
    (r"expected the node content, but found '(.+)'", "`{0}` is not expected here", _QUOTES),
    (
        r"expected a comment or a line break",
        "text behind `>` or `|`",
        "begin it on the next line; or " + _QUOTES,
    ),
    (r"expected <block end>, but found '<scalar>'", "text behind a quoted value", _INDENT),
    (r"expected <block end>, but found '-'", "a list item is not expected here", _INDENT),
    (r"expected <block end>", "the indentation does not fit", _INDENT),
    (r"found unknown escape character '(.+)'", "`\\{0}` means nothing in double quotes", "use single quotes"),
    (r"found duplicate anchor '(.+)'", "the anchor `&{0}` stands twice", "give one of them another name"),
    (r"more than|`<<` merges too much", "{problem}", "write it out, or use fewer aliases"),
    (r"nested too deeply", "{problem}", "a pipeline file is a few levels deep"),
)


def of_yaml(error: yaml.YAMLError, text: str) -> Fault:
    """Where the fault is, what it is, and what to do."""
    if isinstance(error, ReaderError):
        line, column = position(text, error.position)
        return line, column, f"a control character, 0x{ord(text[error.position]):02x}", "take it out"
    if not isinstance(error, yaml.MarkedYAMLError):
        return 1, 1, f"not YAML: {error}", _INDENT
    problem = str(error.problem)
    mark = error.problem_mark or error.context_mark
    if problem.startswith("found unexpected end of stream"):
        mark = error.context_mark or mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    for pattern, message, remedy in _KNOWN:
        found = re.match(pattern, problem)
        if found:
            groups = found.groups()
            return line, column, message.format(*groups, problem=problem), remedy.format(*groups)
    return line, column, f"not YAML: {problem}", _INDENT
