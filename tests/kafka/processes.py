"""Worker processes under test: started, killed, paused, and started again when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class Workers:
    """Some processes of one command. One that ends by itself is started again, as a supervisor would."""

    def __init__(self, arguments: Sequence[str], count: int, log: Path, env: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, *arguments]
        self._env = os.environ | (env or {})
        self._log = log.open("ab")
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.ended: list[int] = []
        self.processes = [self._start() for _ in range(count)]
        self._watch = threading.Thread(target=self._restart, daemon=True)
        self._watch.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def kill(self, number: int) -> None:
        self.processes[number].kill()

    def pause(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGCONT)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> list[int]:
        """End all of them; their exit codes."""
        self._stopping.set()
        self._watch.join()
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.send_signal(how)
        codes = []
        for process in self.processes:
            try:
                codes.append(process.wait(40))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        self._log.close()
        return codes

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            env=self._env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def _restart(self) -> None:
        while not self._stopping.wait(0.2):
            for number, process in enumerate(self.processes):
                code = process.poll()
                if code is not None:
                    self.ended.append(code)
                    self.processes[number] = self._start()
