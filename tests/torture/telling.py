"""How checks tell what is wrong: in a line, with a few examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

SHOWN = 5


def some(what: str, which: Iterable[object]) -> Iterator[str]:
    """A line about things that should not be, with a few of them."""
    things = sorted(map(str, which))
    if things:
        yield f"{len(things)} {what}: {', '.join(things[:SHOWN])}{', …' if len(things) > SHOWN else ''}"
