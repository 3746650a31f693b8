"""Models that are Python functions: ``module:function`` on the batch's columns, in a process of their own.

A hang, a crash or a leak of the model is so no more than an answer with a reason: the process is ended and started
again.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from streamproc.errors import UserError
from streamproc.io import frames
from streamproc.io.keeper import NEVER, Keeper, Recycling
from streamproc.io.model import DEFAULT_READING, Reading, Scores, numbers

HASH_BYTES = 16


class PythonModel:
    """A function from columns (name to array of shape (n,)) to n scores, or to a dict of ``score``, ``confidence``
    and ``version``.

    That it treats every row by itself is the user's word: nothing can check it. One call at a time is made of its
    process, and those that wait have their deadlines too.
    """

    def __init__(
        self,
        target: str,
        folder: Path,
        timeout: timedelta = timedelta(seconds=60),
        *,
        reading: Reading = DEFAULT_READING,
        recycling: Recycling = NEVER,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        """Its process does not see the variables ``secrets``. Raises UserError where the function cannot be
        imported."""
        self._seconds, self._reading = timeout.total_seconds(), reading
        self._keeper = Keeper(target, folder, secrets, recycling)
        self.close = weakref.finalize(self, self._keeper.close)
        """Ends the process; nobody has to call it."""
        self.version = self._keeper.first()

    @property
    def pid(self) -> int | None:
        """Of the process that is asked; ``None`` while none is ready."""
        return self._keeper.pid

    def score(self, columns: Mapping[str, NDArray[Any]], rows: int, deadline: float = inf) -> Scores:
        """What the function returns. Raises TimeoutError, Unavailable where its process died or is not there yet,
        Rejected where it raised, ValueError where what it gave is of another length."""
        deadline = min(deadline, time.monotonic() + self._seconds)
        answer, raw = self._keeper.call({}, columns, deadline)
        # The model runs beside what answers for it, and may have answered itself: anything can stand there.
        found = {name: numbers(column) for name, column in frames.unpack(answer["columns"], raw).items()}
        return self._reading.scores(found["scores"], found.get("confidence"), answer.get("version"))


def load_function(target: str, folder: Path) -> Callable[..., Any]:
    """Import ``module:function``, looking into ``folder`` first. Raises UserError where there is none."""
    module_name, _, name = target.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"cannot import {module_name!r}: {error}",
            "put the module beside the pipeline file, or install it",
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(
            f"{module_name!r} has no function {name!r}", "name one that takes the columns and returns scores"
        )
    return function  # type: ignore[no-any-return]


def version_of(target: str, function: Callable[..., Any]) -> str:
    """A hash of the source of the function's module."""
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    source = Path(file).read_bytes() if file else target.encode()
    return hashlib.blake2b(source + target.encode(), digest_size=HASH_BYTES).hexdigest()
