"""A contestant's process: started in a session of its own, ended by pid, with all that it started."""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.contestants.base import ROOT

STOP_SECONDS = 15.0
LAST_LINES, LAST_CHARACTERS = 5, 800


class Ended(Exception):
    """A process ended by itself; the message has the last lines of its log."""


class Running:
    """A command that runs while the context is open."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._log = folder / "output.log"
        env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # the terminal's Ctrl-C is ours to decide about
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise Ended when it no longer runs."""
        if (code := self._process.poll()) is not None:
            raise Ended(f"ended with code {code}: {self.last_words()}")

    def wait(self, seconds: float) -> bool:
        """Whether it ended well within so many seconds. Raises Ended where it failed."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if code:
            raise Ended(f"ended with code {code}: {self.last_words()}")
        return True

    def last_words(self) -> str:
        """The last lines of its log that are not the marks below a line in a traceback."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip(" ^~|")]
        return " | ".join(lines[-LAST_LINES:])[-LAST_CHARACTERS:]

    def stop(self) -> None:
        """SIGTERM, some seconds, then SIGKILL; children that are left are killed as well."""
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.pid).children(recursive=True)
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            for child in children:
                with contextlib.suppress(psutil.Error):
                    child.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
