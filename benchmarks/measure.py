"""CPU and memory of a contestant: its process and everything that it started. The broker is not in it."""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType
from typing import Self

import numpy as np
import psutil

SAMPLE_SECONDS = 0.1
CHILDREN_SECONDS = 0.5


class Sampler:
    """Samples a process tree in a thread, ten times a second, until it is left.

    CPU times are user and system seconds since each process began; a process that has ended keeps its last ones.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._tree: dict[int, psutil.Process] = {pid: self._root}
        self._used: dict[int, float] = {}
        self._times: list[float] = []
        self._cpu: list[float] = []
        self.peak_rss = 0
        """Bytes resident, summed over the tree, at the worst moment; pages that are shared count for each."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def cpu_between(self, first: float, last: float) -> float:
        """CPU seconds used between two times (seconds since 1970), interpolated between samples."""
        if not self._times:
            return float("nan")
        start, end = np.interp([first, last], self._times, self._cpu)
        return float(end - start)

    def _run(self) -> None:
        looked = 0.0
        while True:
            now = time.monotonic()
            if now - looked > CHILDREN_SECONDS:
                self._look_for_children()
                looked = now
            self._sample()
            if self._done.wait(SAMPLE_SECONDS):
                self._sample()
                return

    def _look_for_children(self) -> None:
        with contextlib.suppress(psutil.Error):
            for child in self._root.children(recursive=True):
                self._tree.setdefault(child.pid, child)

    def _sample(self) -> None:
        rss = 0
        for pid, process in self._tree.items():
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                self._used[pid] = times.user + times.system
                rss += process.memory_info().rss
        self._times.append(time.time())
        self._cpu.append(sum(self._used.values()))
        self.peak_rss = max(self.peak_rss, rss)
