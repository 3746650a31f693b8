"""How many tokens a text may be, and cutting one to fit."""

from __future__ import annotations

from dataclasses import dataclass
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


def _whole(raw: bytes) -> str:
    """The characters that are there as a whole."""
    return raw.decode(errors="ignore")
