"""A progress bar for scans, on stderr, where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from streamproc.kafka.reader import Progress as Told


@contextmanager
def scanning(what: str) -> Iterator[Told]:
    """Shows how far a scan is; what it gives is told how many records have been passed, and of how many."""
    console = Console(stderr=True)
    columns = (
        TextColumn("scanning {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} records"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=max(total, 1))

        yield told
