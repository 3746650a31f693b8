"""The workers under torture: some of them are started with a fault in their environment, and their number changes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.kafka.processes import ROOT, Workers

STOP_SECONDS = 45.0
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Death:
    """A worker that ended. ``env`` is what was special about its environment."""

    number: int
    code: int
    env: Mapping[str, str]


class Crew(Workers):
    """``Workers`` that can be more or fewer. One that ends is started again, with the environment asked for it."""

    def __init__(self, arguments: Sequence[str], count: int, log: Path, env: dict[str, str]) -> None:
        self.deaths: list[Death] = []
        self._pipe = list(os.pipe())  # its end tells the workers that we are gone, even after kill -9
        self._special: dict[int, dict[str, str]] = {}
        self._next: dict[int, dict[str, str]] = {}
        super().__init__(arguments, count, log, env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop(signal.SIGKILL if any(exc) else signal.SIGTERM)

    def __len__(self) -> int:
        return len(self.processes)

    def kill(self, number: int) -> None:
        with self._lock:
            self.processes[number].kill()

    def terminate(self, number: int, env: Mapping[str, str] | None = None) -> None:
        """SIGTERM. The next process in its place gets ``env`` besides the usual."""
        with self._lock:
            self._next[number] = dict(env or {})
            self.processes[number].terminate()

    def pid(self, number: int) -> int:
        return self.processes[number].pid

    def scale(self, count: int) -> None:
        """Have so many, ending the last ones with SIGTERM. Returns when they have ended."""
        with self._lock:
            while len(self.processes) < count:
                self.processes.append(self._start(len(self.processes)))
            leaving = self.processes[count:]
            del self.processes[count:]
        for process in leaving:
            process.terminate()
        for number, process in enumerate(leaving, count):
            self._note(number, _wait(process))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> list[int]:
        codes = super().stop(how)
        while self._pipe:
            os.close(self._pipe.pop())
        return codes

    def _start(self, number: int = -1) -> subprocess.Popen[bytes]:
        special = self._special[number] = self._next.pop(number, {})
        return subprocess.Popen(
            self._command,
            env={**self._env, **special},
            cwd=ROOT,
            stdin=self._pipe[0],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )

    def _restart(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            with self._lock:
                for number, process in enumerate(self.processes):
                    code = process.poll()
                    if code is not None:
                        self._note(number, code)
                        self.processes[number] = self._start(number)

    def _note(self, number: int, code: int) -> None:
        self.ended.append(code)
        self.deaths.append(Death(number, code, self._special.get(number, {})))


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def crew(file: Path, address: str, count: int, session_timeout: float, partitions: int, log: Path) -> Crew:
    """Workers of a pipeline file."""
    arguments = ["-m", "tests.torture.worker", str(file), str(session_timeout), str(partitions)]
    return Crew(arguments, count, log, {"STREAMPROC_KAFKA": address})
