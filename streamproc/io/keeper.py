"""Keeps a process that runs a user's function: one that is ready, and the next one where it has to be replaced."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from streamproc.errors import UserError
from streamproc.io import frames
from streamproc.io.child import Child
from streamproc.io.model import Rejected, Starting, Unavailable

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""For the first import, which whoever opens the pipeline waits for."""
BACKOFF = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds until the next start, by how many came to nothing in a row."""


@dataclass(frozen=True, slots=True)
class Recycling:
    """After so many calls, or with so many bytes in memory, another process takes over. ``None``: never."""

    calls: int | None = None
    memory: int | None = None


NEVER = Recycling()


class Keeper:
    """Has a process that is ready, or is starting one. One call at a time is made of it."""

    def __init__(
        self, target: str, folder: Path, secrets: frozenset[str] = frozenset(), recycling: Recycling = NEVER
    ) -> None:
        """Raises UserError for what is no ``module:function``."""
        if not all(target.partition(":")):
            raise UserError(
                f"`{target}` is not `module:function`",
                "for example `scoring:score` for scoring.py beside this file",
            )
        self._version = ""
        self._lock = threading.Lock()
        self._target, self._folder, self._secrets, self._recycling = target, folder, secrets, recycling
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

    def call(
        self, header: Mapping[str, Any], columns: Mapping[str, NDArray[Any]], deadline: float
    ) -> tuple[dict[str, Any], memoryview]:
        """What the process answers to columns. Raises TimeoutError, Unavailable where it died or is not there yet,
        Rejected where the function raised."""
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        try:
            child = self._ready()
            said, body = frames.pack(columns)
            try:
                answer, raw = child.ask({**header, "columns": said}, body, deadline)
            except TimeoutError:
                self._replace("did not answer in time")
                raise
            except frames.Closed as error:
                self._replace(f"ended {child.how_it_ended()}")
                raise Unavailable("its process ended") from error
            self._answered(answer.get("memory", 0))
        finally:
            self._lock.release()
        if "error" in answer:
            raise Rejected(answer["error"])
        return answer, raw

    def close(self) -> None:
        """End what runs."""
        with self._hands:
            self._closed = True
            children, self._child, self._next = (self._child, self._next), None, None
        for child in children:
            if child is not None:
                child.end()

    def _ready(self) -> Child:
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

    def _replace(self, why: str) -> None:
        """End the process, and start another one."""
        log.warning("the process of %s %s: it is started again", self._target, why)
        with self._hands:
            child, self._child = self._child, None
        if child is not None:
            child.end()
        self._start()

    def _answered(self, memory: int) -> None:
        """Note an answer; where the process has done or taken enough, start the one that will take over."""
        self._failed = 0
        self._calls += 1
        enough = self._recycling.calls is not None and self._calls >= self._recycling.calls
        large = self._recycling.memory is not None and memory > self._recycling.memory
        if (enough or large) and self._next is None:
            self._start()

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
                log.warning("the process of %s did not start in time", self._target)
                self._give_up(child)
            return False
        except (frames.Closed, UserError) as error:
            log.warning("the process of %s did not start: %s", self._target, error)
            self._give_up(child)
            return False
        return True
