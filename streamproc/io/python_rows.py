"""Rows that a Python function gives: ``module:function`` on the keys of a batch, in a process of its own."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamproc.io import frames
from streamproc.io.keeper import Keeper
from streamproc.io.model import Rejected
from streamproc.io.store import Found

FOUND = "found"
"""The column that says, as a Boolean each, of which keys there is anything."""
LOOKUP = {"lookup": True}


class PythonRows:
    """A function from an array of keys, shape (n,), to a dict of columns of that shape: one for each of ``fields``.

    ``None`` and NaN are no value. Where all of a row are, and no column ``found`` says otherwise, there is nothing of
    its key. Keys are texts, or int64 with ``integers``.
    """

    def __init__(
        self,
        target: str,
        folder: Path,
        fields: Sequence[str],
        *,
        integers: bool = False,
        calls: int = 8,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        """Starts the process; at most so many ``calls`` wait for it. Raises UserError where the function cannot be
        imported."""
        self._fields, self._integers = tuple(fields), integers
        self._keeper = Keeper(target, folder, secrets)
        self._pool = ThreadPoolExecutor(calls, "store")
        self._end = weakref.finalize(self, self._keeper.close)
        self.version = self._keeper.first()

    async def get(self, keys: Sequence[bytes], deadline: float) -> list[Found]:
        """One row for each key. Raises what ``Keeper.call`` does, and Rejected where its columns do not fit."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, keys, deadline)

    def _call(self, keys: Sequence[bytes], deadline: float) -> list[Found]:
        texts = [key.decode() for key in keys]
        column: NDArray[Any] = np.array(texts, np.int64) if self._integers else np.array(texts, object)
        answer, raw = self._keeper.call(LOOKUP, {"keys": column}, deadline)
        return self._rows(frames.unpack(answer["columns"], raw), len(keys))

    def _rows(self, given: dict[str, NDArray[Any]], count: int) -> list[Found]:
        if missing := [name for name in self._fields if name not in given]:
            raise Rejected(f"it gave no column {missing[0]}")
        if any(column.shape != (count,) for column in given.values()):
            raise Rejected("a column has another number of values than there are keys")
        rows = list(zip(*(map(_value, given[name].tolist()) for name in self._fields), strict=True))
        if FOUND in given:
            found = given[FOUND].tolist()
            if not all(isinstance(there, bool) for there in found):
                raise Rejected(f"its column {FOUND} is not of true and false alone")
            return [row if there else None for row, there in zip(rows, found, strict=True)]
        return [None if all(value is None for value in row) else row for row in rows]

    async def disconnect(self) -> None:
        """Nothing of it belongs to an event loop."""

    def close(self) -> None:
        """End the process."""
        self._end()
        self._pool.shutdown(wait=False)


def _value(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
