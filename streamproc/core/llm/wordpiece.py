"""A text as numbers of word pieces, as BERT's tokenizer for small letters has it.

Devlin et al. (2019), "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding": texts are
freed of controls and accents, split at white space and punctuation, with each Chinese character a word; a word is the
longest piece of the vocabulary that it begins with, then the longest that goes on, and so forth.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

BEGIN: Final = "[CLS]"
END: Final = "[SEP]"
UNKNOWN: Final = "[UNK]"
GOES_ON: Final = "##"
LONGEST_WORD: Final = 100
"""Characters; what is longer is unknown."""
_PARTS: Final = re.compile(r"\S+")
_CHINESE: Final = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class WordPiece:
    """``vocabulary`` has the number of each piece. What looks like one of its marks in a text is a text like others."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._numbers = dict(vocabulary)
        self._begin, self._end, self._unknown = (self._numbers[name] for name in (BEGIN, END, UNKNOWN))

    def ids(self, text: str, most: int) -> list[int]:
        """The numbers of a text between the marks of its begin and end, ``most`` of them with these at most; what does
        not fit is left out."""
        found = [self._begin]
        for word in _words(text):
            found += self._pieces(word)
            if len(found) >= most:
                break
        return [*found[: most - 1], self._end]

    def _pieces(self, word: str) -> list[int]:
        """The numbers of a word's pieces; one that cannot be put together is unknown as a whole."""
        if len(word) > LONGEST_WORD:
            return [self._unknown]
        found, begin = list[int](), 0
        while begin < len(word):
            prefix = GOES_ON if begin else ""
            for end in range(len(word), begin, -1):
                number = self._numbers.get(prefix + word[begin:end])
                if number is not None:
                    found.append(number)
                    begin = end
                    break
            else:
                return [self._unknown]
        return found


def _words(text: str) -> Iterator[str]:
    for part in _PARTS.finditer("".join(map(_spaced, text))):
        word = ""
        for one in _folded(part[0]):
            if not _is_punctuation(one):
                word += one
                continue
            if word:
                yield word
            yield one
            word = ""
        if word:
            yield word


def _folded(word: str) -> str:
    """Without accents, in small letters; each by itself, so that a Greek sigma is the same at the end of a word."""
    if word.isascii():
        return word.lower()
    bare = (one for one in unicodedata.normalize("NFD", word) if unicodedata.category(one) != "Mn")
    return "".join(one.lower() for one in bare)


@lru_cache(8_192)
def _spaced(one: str) -> str:
    """A character as it counts for words: nothing, white space, or itself, alone where it is Chinese."""
    if one == "\ufffd" or (unicodedata.category(one)[0] == "C" and one not in "\t\n\r"):
        return ""
    if one.isspace():
        return " "
    return f" {one} " if any(first <= ord(one) <= last for first, last in _CHINESE) else one


@lru_cache(8_192)
def _is_punctuation(one: str) -> bool:
    if one.isascii():
        return not one.isalnum()  # symbols too
    return unicodedata.category(one)[0] == "P"
