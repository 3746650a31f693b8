"""Texts to the numbers of their pieces, as BERT's uncased tokenizer has it: WordPiece over a vocabulary.

Schuster and Nakajima 2012; the rules are those of https://github.com/google-research/bert (tokenization.py) and of
Hugging Face's BertNormalizer. One thing is otherwise: what looks like a special token, such as ``[SEP]``, is text here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

LONGEST_WORD: Final = 100
"""Characters; a longer word is unknown."""
INSIDE: Final = "##"
"""Begins the pieces that do not begin a word."""
_WORD: Final = re.compile(r"\S+")
_PLAIN: Final = re.compile(r"[0-9a-z]+|[!-/:-@\[-`{-~]")
_ASCII: Final = re.compile(r"[\t\n\r\x20-\x7e]*")
_HAN: Final = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
"""Where the characters are that are words of their own."""


@dataclass(frozen=True, slots=True)
class WordPiece:
    """``vocab`` has the number of each piece, also of ``[UNK]``, ``[CLS]`` and ``[SEP]``.

    >>> vocab = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "pay": 3, "##ment": 4, "!": 5}
    >>> WordPiece(vocab).pieces("Payment! Now", 10), WordPiece(vocab).whole("Payment! Now", 4)
    ([3, 4, 5, 0], [1, 3, 4, 2])
    """

    vocab: Mapping[str, int]

    def pieces(self, text: str, most: int) -> list[int]:
        """The first ``most`` pieces of a text. What comes after them is not looked at."""
        found = list[int]()
        for word in _words(text):
            if len(found) >= most:
                break
            found += self._of_word(word)
        return found[:most]

    def whole(self, text: str, most: int) -> list[int]:
        """The same between the marks of begin and end, ``most`` with these."""
        return [self.vocab["[CLS]"], *self.pieces(text, most - 2), self.vocab["[SEP]"]]

    def _of_word(self, word: str) -> list[int]:
        """The longest pieces, from the left; nothing but ``[UNK]`` where something is left over."""
        if len(word) > LONGEST_WORD:
            return [self.vocab["[UNK]"]]
        found, begin, mark = list[int](), 0, ""
        while begin < len(word):
            for end in range(len(word), begin, -1):
                piece = self.vocab.get(mark + word[begin:end])
                if piece is not None:
                    break
            else:
                return [self.vocab["[UNK]"]]
            found.append(piece)
            begin, mark = end, INSIDE
        return found


def _words(text: str) -> Iterator[str]:
    """Words and punctuation in small letters without accents."""
    if _ASCII.fullmatch(text):
        yield from (match[0] for match in _PLAIN.finditer(text.lower()))
        return
    for match in _WORD.finditer("".join(map(_seen, text))):
        bare = unicodedata.normalize("NFD", match[0])
        yield from _apart("".join(map(_small, bare)))


def _apart(word: str) -> Iterator[str]:
    begin = 0
    for place, one in enumerate(word):
        if _is_punctuation(one):
            if begin < place:
                yield word[begin:place]
            yield one
            begin = place + 1
    if begin < len(word):
        yield word[begin:]


@lru_cache(8_192)
def _seen(character: str) -> str:
    """Spaces for spaces and around characters that are words, and nothing for what cannot be seen."""
    if character in "\t\n\r" or unicodedata.category(character) == "Zs":
        return " "
    if character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs"):
        return ""
    number = ord(character)
    return f" {character} " if any(first <= number <= last for first, last in _HAN) else character


@lru_cache(8_192)
def _small(character: str) -> str:
    return "" if unicodedata.category(character) == "Mn" else character.lower()


@lru_cache(8_192)
def _is_punctuation(character: str) -> bool:
    plain = "!" <= character <= "/" or ":" <= character <= "@" or "[" <= character <= "`" or "{" <= character <= "~"
    return plain or unicodedata.category(character)[0] == "P"
