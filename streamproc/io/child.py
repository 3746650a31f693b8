"""One process of a Python model, as its worker sees it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streamproc.errors import UserError
from streamproc.io import frames

OURS = "STREAMPROC_"
"""Begins our own variables: Kafka's password and the key of sensitive fields are no business of a model's."""
END_SECONDS = 5.0
HELLO_SECONDS = 1.0
"""From its first byte to its last."""


class Child:
    """Starts at once, and is ready when it has said hello.

    What the model prints goes to the worker's standard error: the frames have a socket of their own.
    """

    def __init__(self, target: str, folder: Path, secrets: frozenset[str] = frozenset()) -> None:
        self._own, other = socket.socketpair()
        ends, self._lifeline = os.pipe()
        self._version: str | None = None
        self.began = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streamproc.io.model_process", str(other.fileno()), str(ends)],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=_environment(secrets),
                pass_fds=(other.fileno(), ends),
                start_new_session=True,
            )
        finally:
            other.close()
            os.close(ends)
        with contextlib.suppress(frames.Closed):
            frames.send(self._own, {"target": target, "folder": str(folder), "path": sys.path})

    @property
    def pid(self) -> int:
        return self._process.pid

    def hello(self, deadline: float) -> str:
        """The model's version, once it is imported. Raises TimeoutError, frames.Closed where the process ended,
        UserError with what importing it came to."""
        if self._version is None:
            readable, _, _ = select.select([self._own], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise TimeoutError
            said, _ = frames.receive(self._own, time.monotonic() + HELLO_SECONDS)
            if "error" in said:
                raise UserError(said["error"], said["hint"])
            self._version = said["version"]
        return self._version

    def ask(self, header: Mapping[str, Any], body: Sequence[Any], deadline: float) -> tuple[dict[str, Any], memoryview]:
        """The answer to one frame. After any exception there is no use in this process any more."""
        frames.send(self._own, header, body, deadline)
        return frames.receive(self._own, deadline)

    def how_it_ended(self) -> str:
        """In words, of a process that has ended."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "its connection"
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    def end(self) -> None:
        """Kill it, and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._own.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _environment(secrets: frozenset[str]) -> dict[str, str]:
    """Ours without secrets, in which this very streamproc is found."""
    package = str(Path(__file__).resolve().parents[2])
    found = os.environ.get("PYTHONPATH")
    own = {"PYTHONPATH": package if not found else os.pathsep.join((package, found))}
    kept = (name for name in os.environ if not name.startswith(OURS) and name not in secrets)
    return {name: os.environ[name] for name in kept} | own
