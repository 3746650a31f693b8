"""Several workers under one parent, which starts a crashed one again with back-off.

A worker spends most of its start on imports. So one more process stands by that has done them: the *spare* takes the
place of a worker that ends, when it is told so on its standard input.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from streamproc.errors import Exit
from streamproc.turn import Turn

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 10.0
HEALTHY_SECONDS = 30.0
RUNNING_SECONDS = 45.0  # longer than a worker waits for a broker that does not answer
STOP_SECONDS = 60.0
SPARE_SECONDS = 20.0
"""How long after a worker was started its replacement is: it needs the processor more."""
FINAL = {Exit.INPUT, Exit.USAGE}
"""Codes that starting again does not mend. A missing environment is final only before anything ever ran."""


@dataclass(slots=True)
class Slot:
    """One worker's place. ``restarts`` counts how often it was started again, ``failures`` in a row."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    failures: int = 0
    due: float = 0.0


class Supervisor:
    """Keeps ``count`` processes of one command running until it is told to stop."""

    def __init__(self, command: Sequence[str], count: int, web_port: int | None = None) -> None:
        self._command = list(command)
        self._slots = [Slot(number) for number in range(count)]
        self._web_port = web_port
        self._spare: subprocess.Popen[bytes] | None = None
        self._spare_due = 0.0
        self._stopping = False
        # A signal handler may interrupt anything, itself too: a SimpleQueue is made for that, an Event is not.
        self._wake: SimpleQueue[None] = SimpleQueue()

    @property
    def pids(self) -> list[int]:
        """The workers that run now, without the spare."""
        return [slot.process.pid for slot in self._slots if slot.process is not None and slot.process.poll() is None]

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until a worker ends with a code that a restart does not mend."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        signal.signal(signal.SIGCHLD, lambda *_: self._wake.put(None))
        try:
            return self._loop()
        finally:
            self._end_all()

    def stop(self) -> None:
        """Ask ``run`` to end."""
        self._stopping = True
        self._wake.put(None)

    def _loop(self) -> int:
        while not self._stopping:
            now = time.monotonic()
            for slot in self._slots:
                code = self._look_after(slot, now)
                if code is not None:
                    return code
            self._look_after_spare(now)
            waiting = [slot.due - now for slot in self._slots if slot.process is None]
            with contextlib.suppress(Empty):
                self._wake.get(timeout=max(min([*waiting, 1.0]), 0.01))
        return Exit.GOOD

    def _look_after(self, slot: Slot, now: float) -> int | None:
        if slot.process is None:
            if now >= slot.due:
                self._start(slot, now)
            return None
        code = slot.process.poll()
        if code is None:
            return None
        slot.process = None
        if code in FINAL or (code == Exit.ENVIRONMENT and self._never_ran(slot, now)):
            log.error("worker %d ended with code %d, which starting again does not mend", slot.number, code)
            return code
        slot.failures = 0 if now - slot.started > HEALTHY_SECONDS else slot.failures + 1
        pause = min(FIRST_BACKOFF * 2 ** max(slot.failures - 1, 0), LONGEST_BACKOFF)
        slot.due = now + pause
        slot.restarts += 1
        log.warning("worker %d ended with code %d: starting again in %.1f s", slot.number, code, pause)
        return None

    def _never_ran(self, slot: Slot, now: float) -> bool:
        restarts = sum(other.restarts for other in self._slots)
        return restarts == 0 and now - slot.started < RUNNING_SECONDS

    def _look_after_spare(self, now: float) -> None:
        if self._spare is not None and self._spare.poll() is not None:
            self._spare, self._spare_due = None, now + LONGEST_BACKOFF
        if self._spare is None and now >= self._spare_due and all(slot.process is not None for slot in self._slots):
            self._spare = self._spawn()

    def _start(self, slot: Slot, now: float) -> None:
        process, self._spare = self._spare, None
        if process is None or process.poll() is not None:
            process = self._spawn()
        port = None if self._web_port is None else self._web_port + slot.number
        with contextlib.suppress(BrokenPipeError):  # it has ended already: seen the next time that it is looked after
            assert process.stdin is not None
            process.stdin.write(Turn(port, slot.restarts).encode())
            process.stdin.flush()
        slot.process, slot.started, self._spare_due = process, now, now + SPARE_SECONDS

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,  # its end tells the worker that we are gone, even after kill -9
            start_new_session=True,  # Ctrl-C is ours to pass on
        )

    def _end_all(self) -> None:
        running = [process for process in (*(slot.process for slot in self._slots), self._spare) if process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                log.error("worker process %d did not stop: it is killed", process.pid)
                process.kill()
                process.wait()


def worker_command(arguments: Sequence[str]) -> list[str]:
    """The command line of a worker process with the interpreter that runs this one."""
    return [sys.executable, "-m", "streamproc", "run", *arguments, "--supervised"]
