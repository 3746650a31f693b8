"""Doors under test: `streamproc serve` as a process of its own, and callers."""

from __future__ import annotations

import http.client
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from tests.kafka.car_loan import Example

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}
READY_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What a caller was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Door:
    """A door, and calling it: each call has a connection of its own."""

    process: subprocess.Popen[bytes]
    port: int
    context: ssl.SSLContext | None = None

    def connect(self) -> http.client.HTTPConnection:
        if self.context is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.context)

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """``body`` is bytes, or an iterable of them that is sent in chunks."""
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def decide(self, event: bytes, deadline: str = "20s", **headers: str) -> Answer:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", f"/v1/decide?deadline={deadline}", event, JSON | more)

    def events(self, *lines: bytes, query: str = "", **headers: str) -> Answer:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", f"/v1/events{query}", b"\n".join(lines), LINES | more)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def door(
    made: Example, *more: str, context: ssl.SSLContext | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Door]:
    """A door that is ready. It is told to end, and must then end well, unless it was killed."""
    port, log = free_port(), made.file.parent / "door.log"
    words = ["serve", str(made.file), "--port", str(port), "--kafka", made.connection.address, *more]
    with log.open("ab") as to:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamproc", *words], stdin=subprocess.DEVNULL, stdout=to, stderr=to, env=env
        )
    opened = Door(process, port, context)
    try:
        wait_until_ready(opened)
        yield opened
        if process.poll() is None:
            process.terminate()
            assert process.wait(30) == 0, log.read_text()[-2000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_until_ready(opened: Door, status: int = 200, seconds: float = READY_SECONDS) -> None:
    """Wait until ``/readyz`` says so."""
    until, last = time.monotonic() + seconds, "nothing"
    while time.monotonic() < until:
        assert opened.process.poll() in (None, -signal.SIGKILL), "the door has ended"
        try:
            last = str((answer := opened.call("GET", "/readyz")).status)
            if answer.status == status:
                return
        except OSError as error:
            last = repr(error)
        time.sleep(0.05)
    raise AssertionError(f"/readyz said {last}, not {status}, for {seconds} s")
