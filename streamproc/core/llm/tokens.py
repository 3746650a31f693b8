"""How many tokens a text may be, and cutting one to fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Final, Literal, TypeAlias

Cut: TypeAlias = Literal["head", "tail", "middle", "refuse"]
"""What of a text that is too long is kept: its beginning, its end, both, or the event is not sent at all."""
GAP: Final = "\n[…]\n"
"""Stands where the middle was."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Never fewer tokens than the model's own tokenizer finds, where it works on bytes.

    Each token of such a tokenizer (byte-level BPE, or one with byte fallback) stands for a byte at least, so a text has
    at most as many as it has bytes in UTF-8. ``bytes_per_token`` above 1 is the word of somebody who knows the model.
    """

    bytes_per_token: float = 1.0

    def count(self, text: str) -> int:
        """An upper bound of the tokens of a text."""
        return ceil(len(text.encode()) / self.bytes_per_token)

    def cut(self, text: str, most: int, how: Cut) -> str | None:
        """The text in ``most`` tokens; ``None`` where it does not fit and is to be refused, or nothing of it fits."""
        room = int(max(most, 0) * self.bytes_per_token)
        raw = text.encode()
        if len(raw) <= room:
            return text
        if how == "refuse":
            return None
        if how == "head":
            kept = _whole(raw[:room])
        elif how == "tail":
            kept = _whole(raw[len(raw) - room :])
        else:
            room -= len(GAP.encode())
            begin = max(room, 0) // 2
            end = max(room, 0) - begin
            kept = _whole(raw[:begin]) + GAP + _whole(raw[len(raw) - end :]) if end else ""
        return kept or None


@dataclass(frozen=True, slots=True)
class Counted:
    """As many tokens as a tokenizer of this ``version`` finds: ``of`` counts those of a text.

    ``longest`` is the length of its longest token. Of a text that is longer than so many of those, what is over is not
    looked at: so what is done for a text is bounded by what may be kept of it.
    """

    version: str
    longest: int
    of: Callable[[str], int] = field(compare=False)

    def count(self, text: str) -> int:
        """The tokens of a text."""
        return self.of(text)

    def cut(self, text: str, most: int, how: Cut) -> str | None:
        """The text in ``most`` tokens; ``None`` where it does not fit and is to be refused, or nothing of it fits."""
        room = max(most, 0) * self.longest
        low, high = 0, min(len(text), room + 1)  # so many characters fit, and so many do not
        size, kept = min(len(text), room), ""
        for step in range(CUTS):
            part = _part(text, size, how)
            count = self.of(part)
            if count <= most:
                if size == len(text):
                    return text
                low, kept = size, part
            else:
                high = size
            if how == "refuse" or high - low <= 1 or (kept and most - max(1, most // ENOUGH) <= count <= most):
                break
            # Counts mostly grow evenly; where they do not, the middle is tried.
            size = size * most // max(count, 1) if step % 2 == 0 else (low + high) // 2
            size = min(max(size, low + 1), high - 1)
        return None if how == "refuse" else kept or None


CUTS: Final = 16
"""So often a text is cut and counted at most."""
ENOUGH: Final = 50
"""A text that fits is not made longer where less than the 50th part of its tokens is left."""


def _part(text: str, size: int, how: Cut) -> str:
    """So many characters of a text, with the gap where the middle was."""
    if size >= len(text):
        return text
    if how == "head":
        return text[:size]
    if how == "tail":
        return text[len(text) - size :]
    size -= len(GAP)
    begin = max(size, 0) // 2
    end = max(size, 0) - begin
    return text[:begin] + GAP + text[len(text) - end :] if end else ""


def _whole(raw: bytes) -> str:
    """The characters that are there as a whole."""
    return raw.decode(errors="ignore")
