"""What of a text a classifier of attacks reads, and what it cannot judge."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from streamproc.core.llm.wordpiece import WordPiece

PIECES: Final = 128
"""Of a stretch, with its marks. Of a text that is longer, the beginning and the end are read: what stands in the middle
of a long text the classifier does not see."""
CHARS: Final = 2_000
"""So many characters have more pieces than a stretch, but for the longest words."""
SHORTEST: Final = 10
"""Of fewer characters nothing can be said."""
_RUNS: Final = re.compile(r"([^\w\s])\1{3,}")
_FEW: Final = 4
_MOST_OF_ONE: Final = 2 / 3


def stretches(words: WordPiece, text: str) -> list[list[int]]:
    """The numbers of the pieces of one or two stretches of a text; none where there is nothing to be judged.

    Lines of dashes and the like become short. Where two thirds of a stretch are one known piece, and there are four
    different ones at most, it is left out: what a model says of such a text is chance.
    """
    begin = _RUNS.sub(r"\1\1\1", text[:CHARS])
    if len(begin.strip()) < SHORTEST:
        return []
    pieces = words.pieces(begin, PIECES - 1)
    found = [pieces[: PIECES - 2]]
    if len(pieces) > PIECES - 2 or len(text) > CHARS:
        end = _RUNS.sub(r"\1\1\1", text[-CHARS:])
        found.append(words.pieces(end, CHARS)[2 - PIECES :])
    first, last, unknown = (words.vocab[mark] for mark in ("[CLS]", "[SEP]", "[UNK]"))
    return [[first, *one, last] for one in found if one and not _is_one_thing(one, unknown)]


def _is_one_thing(pieces: list[int], unknown: int) -> bool:
    counts = Counter(pieces)
    [(commonest, times)] = counts.most_common(1)
    return len(pieces) > 2 and len(counts) <= _FEW and times >= _MOST_OF_ONE * len(pieces) and commonest != unknown
