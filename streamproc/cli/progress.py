"""Progress bars for scans and for deciding files, on stderr, where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from streamproc import rows
from streamproc.kafka.reader import Progress as Told
from streamproc.wording import counted


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


@contextmanager
def deciding(what: str) -> Iterator[rows.Told]:
    """Shows how far a file is; what it gives is told how many events have been read, and how far that is."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def told(events: int, progress: rows.Progress) -> None:
            done, total = progress
            bar.update(task, completed=done, total=total, description=f"{what}: {counted(events, 'event')}")

        yield told
