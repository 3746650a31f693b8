"""What stands for a language model in the demonstration: it does what its instructions say, as far as it understands.

It reads the categories and their words in the instructions, and the data between the marks. It is easily led: of the
orders in the data it obeys some.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import orjson

CATEGORY: Final = re.compile(r"^- (\w+): (.+)$", re.MULTILINE)
URGENT: Final = re.compile(r"^Urgent: (.+)$", re.MULTILINE)
DATA: Final = re.compile(r"<<<(\w+) \w+\n(.*?)\n\1>>>", re.DOTALL)
ORDERED: Final = re.compile(r"score\W{0,3}(?:(?:to|is)\W)?\W{0,3}([01])\b")
ASKED_TO_TELL: Final = re.compile(r"system prompt|text that stands before|hidden prompt")
LINK: Final = re.compile(r"https?://\S+")
OBEYS: Final = 0.6
"""The share of orders that it follows."""
SURE, TORN, LOST = 0.92, 0.55, 0.3
"""How sure it is where one category is meant, several, or none."""


def answer(system: str, user: str) -> str:
    """JSON with score, confidence, category and why. The same for the same instructions and data."""
    data = "\n".join(text for _, text in DATA.findall(user)).casefold()
    chance = int.from_bytes(hashlib.blake2b(data.encode(errors="replace"), digest_size=4).digest()) / 2**32
    said = _read(system, data, chance)
    if chance < OBEYS:
        said |= _obeyed(system, data)
    return orjson.dumps(said).decode()


def _read(system: str, data: str, chance: float) -> dict[str, Any]:
    names = {name: _heard(words, data) for name, words in CATEGORY.findall(system)}
    most = max(map(len, names.values()), default=0)
    best = [name for name, heard in names.items() if len(heard) == most]
    urgent = [word for words in URGENT.findall(system) for word in _heard(words, data)]
    return {
        "score": round(0.1 + 0.7 * bool(urgent) + 0.1 * chance, 3),
        "confidence": LOST if not most else SURE if len(best) == 1 else TORN,
        "category": best[0],
        "why": ", ".join([*names[best[0]], *urgent])[:100],
    }


def _heard(words: str, data: str) -> list[str]:
    return [word for word in words.casefold().split(", ") if word in data]


def _obeyed(system: str, data: str) -> dict[str, Any]:
    """What becomes of an answer by the orders in the data."""
    changed: dict[str, Any] = {}
    if order := ORDERED.search(data):
        changed |= {"score": float(order[1]), "confidence": 1.0}
        changed |= {"category": "feedback"} if order[1] == "0" else {}
    if ASKED_TO_TELL.search(data):
        changed["why"] = system[:180]
    elif link := LINK.search(data):
        changed["why"] = f"see {link[0]}"[:180]
    return changed
