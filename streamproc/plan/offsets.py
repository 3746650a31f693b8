"""From a character of a YAML scalar's text to its line and column in the file, in every style of scalars.

Quotes, indentation and folding change white space and nothing else, so the other characters are the same in
the file and in the text, in the same order. They are paired up one by one; where they do not agree (a number
that is written ``1e3``, say) the place is the beginning of the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

import yaml
from yaml.scanner import Scanner

Unit: TypeAlias = tuple[str, int, int]
"""A character of the text, and where it begins and ends in the file."""

BREAKS = "\n\r\x85\u2028\u2029"
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)*")  # an anchor and a tag in front of a value
BLANK = frozenset(" \t\ufeff" + BREAKS)


def locate(text: str, node: yaml.ScalarNode, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of character ``offset`` of the scalar; the text is the whole file's."""
    start = node.start_mark
    index = _index(text, node, offset)
    if index is None:
        return start.line + 1, start.column + 1
    return position(text, index, start.index, start.line, start.column)


def position(text: str, index: int, begin: int = 0, line: int = 0, column: int = 0) -> tuple[int, int]:
    """Line and column, from 1, of a character of the file, counted from a known one before it.

    >>> position("ab\\r\\ncd", 5)
    (2, 2)
    """
    for at in range(begin, index):
        if text[at] == "\r" and text[at + 1 : at + 2] == "\n":
            continue
        line, column = (line + 1, 0) if text[at] in BREAKS else (line, column + 1)
    return line + 1, column + 1


def _index(text: str, node: yaml.ScalarNode, offset: int) -> int | None:
    value: str = node.value
    units = [unit for unit in _units(text, node) if unit[0] not in BLANK]
    if [unit[0] for unit in units] != [char for char in value if char not in BLANK] or not units:
        return None
    before = sum(char not in BLANK for char in value[:offset])
    if before == 0 or (offset < len(value) and value[offset] not in BLANK):
        return units[before][1]
    return units[before - 1][2]


def _units(text: str, node: yaml.ScalarNode) -> Iterator[Unit]:
    begin, end = node.start_mark.index, node.end_mark.index
    if (properties := _PROPERTIES.match(text, begin, end)) is not None:
        begin = properties.end()
    if node.style in ("|", ">"):
        while begin < end and text[begin] not in BREAKS:
            begin += 1
    elif node.style in ("'", '"'):
        begin, end = begin + 1, end - 1
    while begin < end:
        char, length = _unit(text, begin, node.style)
        yield char, begin, begin + length
        begin += length


def _unit(text: str, at: int, style: str | None) -> tuple[str, int]:
    if style == "'" and text.startswith("''", at):
        return "'", 2
    if style == '"' and text[at] == "\\":
        code = text[at + 1]
        if code in Scanner.ESCAPE_CODES:
            length = Scanner.ESCAPE_CODES[code]
            return chr(int(text[at + 2 : at + 2 + length], 16)), 2 + length
        return Scanner.ESCAPE_REPLACEMENTS.get(code, " "), 2
    return text[at], 1
