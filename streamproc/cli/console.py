"""Where tables go: a terminal, or something that has no width of its own."""

from __future__ import annotations

from rich.console import Console


def console_for(width: int) -> Console:
    """As wide as the terminal, and ``width`` characters where there is none."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=width)
