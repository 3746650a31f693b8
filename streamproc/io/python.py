"""Models that are Python functions: ``module:function`` on the batch's columns, in a process of their own.

A hang, a crash or a leak of the model is so no more than an answer with a reason: the process is ended and started
again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from streamproc.errors import UserError
from streamproc.io import frames
from streamproc.io.child import Child
from streamproc.io.model import DEFAULT_READING, Reading, Rejected, Scores, Starting, Unavailable, numbers

log = logging.getLogger(__name__)

HASH_BYTES = 16
START_SECONDS = 60.0
"""For the first import, which whoever opens the pipeline waits for."""
BACKOFF = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds until the next start, by how many came to nothing in a row."""


@dataclass(frozen=True, slots=True)
class Recycling:
    """After so many calls, or with so many bytes in memory, another process takes over. ``None``: never."""

    calls: int | None = None
    memory: int | None = None


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
        recycling: Recycling = Recycling(),
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        """Its process does not see the variables ``secrets``. Raises UserError where the function cannot be
        imported."""
        if not all(target.partition(":")):
            raise UserError(
                f"`{target}` is not `module:function`",
                "for example `scoring:score` for scoring.py beside this file",
            )
        self._target, self._folder = target, folder
        self._seconds, self._reading, self._recycling = timeout.total_seconds(), reading, recycling
        self._keeper = _Keeper(target, folder, secrets)
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
        keeper = self._keeper
        if not keeper.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        try:
            child = keeper.ready()
            said, body = frames.pack(columns)
            try:
                answer, raw = child.ask({"columns": said}, body, deadline)
            except TimeoutError:
                keeper.replace("did not answer in time")
                raise
            except frames.Closed as error:
                keeper.replace(f"ended {child.how_it_ended()}")
                raise Unavailable("its process ended") from error
            keeper.answered(self._recycling, answer.get("memory", 0))
        finally:
            keeper.lock.release()
        if "error" in answer:
            raise Rejected(answer["error"])
        # The model runs beside what answers for it, and may have answered itself: anything can stand there.
        found = {name: numbers(column) for name, column in frames.unpack(answer["columns"], raw).items()}
        return self._reading.scores(found["scores"], found.get("confidence"), answer.get("version"))


class _Keeper:
    """Has a process that is ready, or is starting one. To be used under its lock."""

    def __init__(self, target: str, folder: Path, secrets: frozenset[str]) -> None:
        self._version = ""
        self.lock = threading.Lock()
        self._target, self._folder, self._secrets = target, folder, secrets
        self._child: Child | None = None
        self._next: Child | None = None
        self._failed, self._calls, self._not_before = 0, 0, 0.0
        self._closed = False
        self._hands = threading.Lock()
        """Around what changes the two processes: ``close`` may come in the middle of a call, which holds the other."""

    @property
    def pid(self) -> int | None:
        child = self._child
        return None if child is None else child.pid

    def first(self) -> str:
        """Start the first process and wait for it. Its version."""
        child = self._child = Child(self._target, self._folder, self._secrets)
        try:
            self._version = child.hello(time.monotonic() + START_SECONDS)
            return self._version
        except TimeoutError as error:
            self.close()
            raise UserError(
                f"`{self._target}` was not imported within {START_SECONDS:.0f} s",
                "let the module load what is large when it is first called",
            ) from error
        except frames.Closed as error:
            how = child.how_it_ended()
            self.close()
            raise UserError(
                f"`{self._target}` cannot be used: importing it ended its process {how}",
                "import the module in a Python of its own, and see why",
            ) from error
        except UserError:
            self.close()
            raise

    def ready(self) -> Child:
        """A process that can be asked. Never waits: raises Starting while none can."""
        following = self._next
        if following is not None and self._started(following):
            with self._hands:
                before = self._child
                if not self._closed:
                    self._child, self._next, self._calls = following, None, 0
            if before is not None:
                before.end()
        child = self._child
        if child is not None:
            return child
        if self._next is None:
            self._start()
        raise Starting("its process is starting")

    def replace(self, why: str) -> None:
        """End the process, and start another one."""
        log.warning("the process of the model %s %s: it is started again", self._target, why)
        with self._hands:
            child, self._child = self._child, None
        if child is not None:
            child.end()
        self._start()

    def answered(self, recycling: Recycling, memory: int) -> None:
        """Note an answer; where the process has done or taken enough, start the one that will take over."""
        self._failed = 0
        self._calls += 1
        enough = recycling.calls is not None and self._calls >= recycling.calls
        large = recycling.memory is not None and memory > recycling.memory
        if (enough or large) and self._next is None:
            self._start()

    def close(self) -> None:
        """End what runs."""
        with self._hands:
            self._closed = True
            children, self._child, self._next = (self._child, self._next), None, None
        for child in children:
            if child is not None:
                child.end()

    def _start(self) -> None:
        now = time.monotonic()
        if self._next is not None or self._closed or now < self._not_before:
            return
        self._not_before = now + BACKOFF[min(self._failed, len(BACKOFF) - 1)]
        self._failed += 1
        child = Child(self._target, self._folder, self._secrets)
        with self._hands:
            late = self._closed  # while it was made, and so by somebody who did not know of it
            if not late:
                self._next = child
        if late:
            child.end()

    def _give_up(self, child: Child) -> None:
        with self._hands:
            own, self._next = self._next is child, None
        if own:
            child.end()

    def _started(self, child: Child) -> bool:
        """Whether it has said that it is ready. One that never will be is given up."""
        try:
            version = child.hello(time.monotonic())
            if version != self._version:  # decisions name the version that the plan was made with
                raise UserError("its module has changed since the worker started", "start the worker again")
        except TimeoutError:
            if time.monotonic() - child.began > START_SECONDS:
                log.warning("the process of the model %s did not start in time", self._target)
                self._give_up(child)
            return False
        except (frames.Closed, UserError) as error:
            log.warning("the process of the model %s did not start: %s", self._target, error)
            self._give_up(child)
            return False
        return True


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
