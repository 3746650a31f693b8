"""What must be the same in two texts before one is answered with the other's answer, however alike they are.

A model of sentences finds "I want a refund" and "I want no refund" alike, and so it does two amounts, or two names.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Final, TypeAlias

from streamproc.core.llm.lexical_words import CONTRACTED, NEGATING_PARTS, NEGATIONS, NUMBER_WORDS, SAY_LITTLE

SWAPPED: Final = 2
"""Texts of which so few words differ on either side are one text with something put for something else."""
PARTS_OF_ALL: Final = frozenset("%\u2030")
_ONE: Final = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts without spaces between words: each character is one."""
_TOKEN: Final = re.compile(
    rf"(?P<number>(?:(?<!\w)[-−])?[^\W_]*\d[^\W_]*(?:[.,:/-][^\W_]*\d[^\W_]*)*)"
    rf"|(?P<one>[{_ONE}])|(?P<word>[^\W\d_{_ONE}]+(?:['’][^\W\d_{_ONE}]+)*)|(?P<end>[.!?。！？\n]+)|(?P<sign>\S)"
)

Measure: TypeAlias = tuple[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Wording:
    """``negations`` in a text; its ``numbers``, sorted; its ``names``: words with a capital letter that does not come
    from the begin of a sentence; its ``words``, in their order, but for those that say little. All in small letters."""

    negations: int
    numbers: tuple[str, ...]
    names: frozenset[str]
    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Wording:
        """What a text says, as far as it can be told by single words.

        >>> Wording.of("Send 2 parcels to Rome, not one.")
        Wording(negations=1, numbers=('2',), names=frozenset({'rome'}), words=('send', 'parcels', 'to', 'rome', 'one'))
        """
        negations = sum(map(text.count, NEGATING_PARTS))
        numbers, names, words = list[str](), set[str](), list[str]()
        begins = True
        for found in _TOKEN.finditer(text):
            kind, token = found.lastgroup, found[0]
            if kind == "end":
                begins = True
                continue
            if kind == "number":
                numbers.append(_number(token))
            elif kind == "sign":
                if token in PARTS_OF_ALL or unicodedata.category(token) == "Sc":
                    numbers.append(token)
                continue
            else:
                word = token.casefold()
                if word in NEGATIONS:
                    negations += 1
                elif word.endswith(CONTRACTED):  # it was counted as a part
                    pass
                elif word in NUMBER_WORDS:
                    numbers.append(NUMBER_WORDS[word])
                elif word not in SAY_LITTLE:
                    words.append(word)
                    if token[0].isupper() and not begins:
                        names.add(word)
            begins = False
        return cls(negations, tuple(sorted(numbers)), frozenset(names), tuple(words))

    @property
    def measure(self) -> Measure:
        """What is the same in all texts that agree."""
        return self.negations, self.numbers

    def agrees(self, other: Wording) -> bool:
        """Whether nothing that can be told by single words speaks against one answer to both.

        >>> Wording.of("Where is my parcel?").agrees(Wording.of("where is the parcel"))
        True
        >>> Wording.of("A refund of 20 EUR").agrees(Wording.of("A refund of 200 EUR"))
        False
        """
        if self.measure != other.measure:
            return False
        mine, theirs = Counter(self.words), Counter(other.words)
        if not (self.names <= theirs.keys() and other.names <= mine.keys()):
            return False
        only_mine, only_theirs = (mine - theirs).total(), (theirs - mine).total()
        if not only_mine and not only_theirs:
            return self.words == other.words
        return not (0 < only_mine <= SWAPPED and 0 < only_theirs <= SWAPPED)


def _number(token: str) -> str:
    """Digits of any script as those of ours, without signs that only make it easier to read."""
    plain = "".join(str(unicodedata.digit(one)) if one.isdecimal() else one for one in token.casefold())
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain).replace("−", "-")
