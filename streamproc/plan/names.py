"""What was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 12


def closest(name: str, known: Iterable[str]) -> list[str]:
    """The names most like it, the most alike first; case does not count."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(known)}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)]


def near(name: str, known: Iterable[str], what: str) -> str:
    """A remedy that names what was probably meant, or what there is.

    >>> near("aprove", ["approve", "decline"], "decisions")
    'did you mean `approve`?'
    >>> near("x", ["approve", "decline"], "decisions")
    'there are the decisions `approve`, `decline`'
    """
    names = sorted(set(known))
    close = closest(name, names)
    if close:
        return "did you mean " + " or ".join(f"`{one}`" for one in close) + "?"
    if not names:
        return f"there are no {what}"
    shown = ", ".join(f"`{one}`" for one in names[:SHOWN])
    return f"there are the {what} {shown}{', …' if len(names) > SHOWN else ''}"
