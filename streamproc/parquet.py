"""A Parquet file of any size, written in bounded memory, and seen only once it is whole."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

import polars as pl

from streamproc.errors import UserError

PART_BYTES = 64 << 20


class ParquetFile:
    """Takes frames of one schema and makes a file of them.

    They are kept in parts in a folder beside the file, which is gone afterwards, whatever happens. ``finish`` makes the
    file, at once and as a whole; without it, what stood there before stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = Path()
        self._parts = list[Path]()
        self._waiting = list[pl.DataFrame]()
        self._bytes = 0.0

    def __enter__(self) -> ParquetFile:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self._path.name}.", dir=self._path.parent))
        except OSError as error:
            raise self._cannot(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if isinstance(error, OSError | pl.exceptions.PolarsError):
            raise self._cannot(error) from error

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows."""
        self._waiting.append(frame)
        self._bytes += frame.estimated_size()
        if self._bytes >= PART_BYTES:
            self._flush()

    def finish(self, beside: pl.DataFrame | None = None, on: str = "") -> None:
        """Make the file. ``beside``, in memory, adds its columns to the rows with its value in the column ``on``."""
        self._flush()
        rows = pl.scan_ipc(self._parts, glob=False)
        if beside is not None:
            rows = rows.join(beside.lazy(), on=on, how="left", maintain_order="left")
        whole = self._folder / "whole"
        rows.sink_parquet(whole)
        whole.replace(self._path)

    def _flush(self) -> None:
        if self._waiting:
            part = self._folder / f"{len(self._parts)}.arrow"
            pl.concat(self._waiting).write_ipc(part, compression="lz4")
            self._parts.append(part)
            self._waiting, self._bytes = [], 0.0

    def _cannot(self, error: Exception) -> UserError:
        why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        return UserError(f"cannot write {self._path}: {why}", "name another file with --out, where there is room")
