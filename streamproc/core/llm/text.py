"""Text from outside, made harmless to handle: bounded, normalised, and without what cannot be seen."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

LETTERS_READ: Final = 1_000
"""So many characters are enough to say in which script a text is written."""
_KEPT: Final = frozenset("\n\t")
_LINES: Final = re.compile(r"\n{3,}")
_SPACES: Final = re.compile(r"[^\S\n]{3,}")
_SEEN: Final = re.compile(r"[\x20-\x7e\n\t]*")
_JOINERS: Final = frozenset("\u00ad\u200c\u200d\u200e\u200f\ufeff")
"""Emoji, Persian, Hindi, Arabic and word processors have use for them: they go, and count for nothing."""
MOST_MARKS: Final = 30
"""As the Stream-Safe Text Format has it (Unicode Standard Annex #15): no language needs more."""
OTHER: Final = "other"
NO_LETTERS: Final = "none"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """``text`` as people see it, how many characters were ``hidden`` in it without a use, and whether it is only the
    beginning."""

    text: str
    hidden: int
    cut: bool


def cleaned(raw: str, most: int) -> Cleaned:
    """The first ``most`` characters in normal form (NFKC), without controls, invisible characters and long gaps.

    The work is bounded by ``most``: a character's normal form is 18 at most (U+FDFA), and what is longer is cut again.
    Of marks that are put onto one character no more than ``MOST_MARKS`` are read: to bring them into their order takes
    the square of their number.

    >>> cleaned("Pay\\u200bment  \\ufb01nal\\x00", 100)
    Cleaned(text='Payment  final', hidden=2, cut=False)
    """
    begin, cut = raw[:most], len(raw) > most
    if _SEEN.fullmatch(begin):
        shown, hidden = begin, 0
    else:
        begin = begin.replace("\r\n", "\n").replace("\r", "\n")
        shown = "".join(one for one in begin if not _is_hidden(one))
        hidden = len(begin) - len(shown) - sum(map(begin.count, _JOINERS))
        shown = unicodedata.normalize("NFKC", _with_few_marks(shown))
        cut |= len(shown) > most
        shown = "".join(one for one in shown[:most] if not _is_hidden(one))
    return Cleaned(_SPACES.sub("  ", _LINES.sub("\n\n", shown)), hidden, cut)


def _with_few_marks(text: str) -> str:
    kept, marks = list[str](), 0
    for one in text:
        marks = marks + 1 if unicodedata.combining(one) else 0
        if marks <= MOST_MARKS:
            kept.append(one)
    return "".join(kept)


@lru_cache(4_096)
def _is_hidden(character: str) -> bool:
    """Controls, formats (zero width, direction, tags), lone surrogates, what is private or no character."""
    return character not in _KEPT and unicodedata.category(character)[0] == "C"


def script_of(text: str) -> str:
    """The script that most of the first letters are written in: ``latin``, ``cyrillic``, …; ``none`` without letters.

    By the first word of the characters' Unicode names.

    >>> script_of("Guten Tag"), script_of("Добрый день"), script_of("123 ..."), script_of("こんにちは")
    ('latin', 'cyrillic', 'none', 'hiragana')
    """
    counts: dict[str, int] = {}
    for one in text[:LETTERS_READ]:
        if script := _script(one):
            counts[script] = counts.get(script, 0) + 1
    return max(counts, key=lambda name: (counts[name], name)) if counts else NO_LETTERS


@lru_cache(4_096)
def _script(character: str) -> str:
    if not character.isalpha():
        return ""
    name = unicodedata.name(character, OTHER).lower()
    return name.partition(" ")[0].partition("-")[0]
