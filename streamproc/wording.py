"""Numbers in sentences for people."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with what it counts; ``many`` is ``one`` with an s unless it is given.

    >>> counted(1, "event"), counted(20_000, "event"), counted(0, "entry", "entries")
    ('1 event', '20,000 events', '0 entries')
    >>> counted(1, "event is", "events are")
    '1 event is'
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
