"""How sure a model was of a score, by the probabilities of the tokens that it wrote it with.

The geometric mean of the probabilities of the tokens in which the score's value stands: the likelihood of a sequence,
normalised by its length (Malinin and Gales 2021, "Uncertainty Estimation in Autoregressive Structured Prediction",
https://arxiv.org/abs/2002.07650), of the part that is decided upon. Over a whole answer in JSON it would mostly be that
of braces and names, of which every model is sure. It says how likely these digits were, not how likely they are right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

SCORE: Final = '"score"'
Tokens: TypeAlias = Sequence[tuple[bytes, float]]
"""The bytes of each token of a text, and the logarithm of its probability."""
_PARTS: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
"""Texts and brackets. A text that does not end is one up to the end: else each quote in it would be tried again."""
_NUMBER: Final = re.compile(r"\s*:\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")


def sureness(text: str, tokens: Tokens) -> float | None:
    """From 0 to 1; ``None`` where the tokens are not those of the text, or it has no score.

    >>> sureness('{"score": 0.9}', [(b'{"score": ', 0.0), (b"0.", math.log(0.9)), (b"9", math.log(0.4)), (b"}", -9.0)])
    0.6
    """
    span = _span(text)
    if span is None or b"".join(token for token, _ in tokens) != text.encode(errors="replace"):
        return None
    begin, end = (len(text[:place].encode(errors="replace")) for place in span)
    found, at = list[float](), 0
    for token, logprob in tokens:
        if at < end and at + len(token) > begin:
            found.append(min(logprob, 0.0))
        at += len(token)
    return round(math.exp(math.fsum(found) / len(found)), 12)


def _span(text: str) -> tuple[int, int] | None:
    """Where the value of the outermost object's ``score`` stands; the last one where there are several."""
    depth, span = 0, None
    for part in _PARTS.finditer(text):
        if part[0] in "{[":
            depth += 1
        elif part[0] in "}]":
            depth -= 1
        elif depth == 1 and part[0] == SCORE and (number := _NUMBER.match(text, part.end())):
            span = number.span(1)
    return span
