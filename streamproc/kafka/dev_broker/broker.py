"""Starting, watching and ending the broker's processes."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

from streamproc.errors import EnvironmentFault
from streamproc.kafka.dev_broker import watchdog
from streamproc.kafka.dev_broker.config import (
    HOST,
    KAFKA_VERSION,
    BrokerConfig,
    NodePaths,
    Ports,
    log4j2_text,
    properties_text,
    scram_arguments,
    server_properties,
)
from streamproc.kafka.dev_broker.jars import kafka_jars
from streamproc.kafka.dev_broker.java import find_java
from streamproc.kafka.dev_broker.ports import free_ports, is_free
from streamproc.kafka.dev_broker.wire import unfenced_brokers

STOP_SECONDS = 20.0
PORT_ATTEMPTS = 5


class DevBroker:
    """One Kafka cluster, of one node unless configured otherwise. Every method is synchronous.

    A context manager. After ``stop`` a broker with temporary data is gone for good; one with a ``data_dir``
    can be started again.
    """

    def __init__(self, config: BrokerConfig | None = None, notify: Callable[[str], None] | None = None) -> None:
        self.config = config or BrokerConfig()
        self.version = KAFKA_VERSION
        self._notify = notify
        self._data_dir: Path | None = None
        self._ports: list[Ports] = []
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lock: IO[str] | None = None  # on a data directory that is kept
        self._watchdog: subprocess.Popen[str] | None = None

    # what it is

    @property
    def address(self) -> str:
        """Bootstrap servers of the plain listener: ``127.0.0.1:PORT``, with commas between nodes."""
        return ",".join(f"{HOST}:{ports.plain}" for ports in self._started())

    @property
    def secure_address(self) -> str:
        """Bootstrap servers of the SASL_SSL listener."""
        if self.config.security is None:
            raise ValueError("this broker has no secure listener")
        return ",".join(f"{HOST}:{ports.secure}" for ports in self._started())

    @property
    def data_dir(self) -> Path:
        self._started()
        assert self._data_dir is not None
        return self._data_dir

    @property
    def log_path(self) -> Path:
        """The first node's log."""
        return self._paths(1).log

    @property
    def pid(self) -> int:
        """The first node's process id."""
        return self.pids[1]

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by node id (from 1) of the nodes that were started and not stopped."""
        return {node: process.pid for node, process in self._processes.items()}

    @property
    def running(self) -> bool:
        """Whether every node's process is alive."""
        alive = [process.poll() is None for process in self._processes.values()]
        return len(alive) == self.config.nodes and all(alive)

    # what it does

    def start(self) -> None:
        """Start, and return once every node serves clients.

        Raises EnvironmentFault with the log's last error where it ends early or takes too long.
        """
        if self._processes:
            raise ValueError("the broker has been started already")
        java, jars = find_java(), kafka_jars(self.version, notify=self._notify)
        try:
            self._make_data_dir()
            for attempt in range(PORT_ATTEMPTS):
                if not self._ports:
                    self._ports = self._choose_ports()
                try:
                    self._format(java, jars)
                    self._launch(java, jars)
                    return
                except _PortTakenError:
                    self._end_all(signal.SIGKILL)
                    self._ports = []
                    if attempt == PORT_ATTEMPTS - 1:
                        raise EnvironmentFault("no free ports were found for Kafka") from None
        except BaseException:
            self._discard()
            raise

    def stop(self) -> None:
        """End every node and remove a temporary data directory. Harmless when nothing runs."""
        # Nobody reads temporary data again, so nothing is gained by a broker that tidies it up.
        self._end_all(signal.SIGTERM if self.config.data_dir else signal.SIGKILL)
        self._discard()

    def kill(self, node: int | None = None) -> None:
        """kill -9 of one node, or of all. The data stays for ``restart``."""
        for one in [node] if node else list(self._processes):
            self._end(one, signal.SIGKILL)

    def restart(self, node: int | None = None) -> None:
        """Start what does not run, stopping it properly first where it does; with the same data and ports."""
        self._started()
        nodes = [node] if node else list(range(1, self.config.nodes + 1))
        if node:
            self._end(node, signal.SIGTERM)
        else:
            self._end_all(signal.SIGTERM)  # at once: the last one of a cluster would wait for the others in vain
        try:
            self._launch(find_java(), kafka_jars(self.version), nodes)
        except _PortTakenError:
            raise EnvironmentFault("the broker's port was taken by another process while it was stopped") from None

    def wait(self) -> None:
        """Return when a node's process ends by itself."""
        process = next(iter(self._processes.values()))
        if len(self._processes) == 1:
            process.wait()
        while self.running:
            time.sleep(0.2)

    def last_words(self) -> str:
        """The last error in the first node's log, for a message."""
        return _last_error(self._paths(1))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # how it does it

    def _started(self) -> list[Ports]:
        if not self._ports:
            raise ValueError("the broker has not been started")
        return self._ports

    def _paths(self, node: int) -> NodePaths:
        return NodePaths(self.data_dir / f"node-{node}")

    def _make_data_dir(self) -> None:
        if self.config.data_dir is None:
            self._data_dir = Path(tempfile.mkdtemp(prefix="streamproc-kafka-"))
            self._tell_watchdog(f"remove {self._data_dir}")
            return
        self._data_dir = self.config.data_dir.absolute()
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = (self._data_dir / "lock").open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ours until we let go of it or die
        except BlockingIOError:
            raise EnvironmentFault(
                f"another broker uses the data directory {self._data_dir}",
                hint="stop it, or choose another --data-dir",
            ) from None
        except OSError as error:
            raise EnvironmentFault(f"the data directory {self._data_dir} cannot be made: {error.strerror}") from error

    def _choose_ports(self) -> list[Ports]:
        if self.config.port is not None and not is_free(self.config.port):
            raise EnvironmentFault(f"port {self.config.port} is in use", hint="choose another one with --port")
        free = free_ports()
        plain = [self.config.port or next(free), *(next(free) for _ in range(1, self.config.nodes))]
        return [Ports(plain=one, controller=next(free), secure=next(free)) for one in plain]

    def _format(self, java: Path, jars: Path) -> None:
        """Write each node's configuration and, the first time, give it an empty log."""
        cluster = self._cluster_id()
        formatting = []
        for node in range(1, self.config.nodes + 1):
            paths = self._paths(node)
            paths.root.mkdir(exist_ok=True, mode=0o700)
            properties = server_properties(self.config, node, self._ports, paths)
            paths.properties.touch(mode=0o600)  # the users' passwords are in it
            paths.properties.write_text(properties_text(properties))
            paths.log_config.write_text(log4j2_text(paths.log))
            if security := self.config.security:
                paths.keystore.touch(mode=0o600)
                paths.keystore.write_bytes(security.key.read_bytes() + b"\n" + security.certificate.read_bytes())
            if not (paths.data / "meta.properties").exists():
                arguments = ["format", "--cluster-id", cluster, "--config", str(paths.properties)]
                arguments += scram_arguments(self.config.security)
                command = self._java(java, jars, paths, "256m", "kafka.tools.StorageTool", *arguments)
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
                )
                formatting.append(process)
        try:
            for process in formatting:
                said, _ = process.communicate(timeout=self.config.start_timeout)
                if process.returncode:
                    raise EnvironmentFault(
                        "Kafka could not prepare its data directory",
                        hint=_error_in(said.decode(errors="replace")),
                    )
        except subprocess.TimeoutExpired:
            raise EnvironmentFault("Kafka did not prepare its data directory in time") from None
        finally:
            for process in formatting:
                process.kill()
                process.communicate()

    def _cluster_id(self) -> str:
        """Kept beside the nodes, so that a node whose log was lost joins the same cluster again."""
        file = self.data_dir / "cluster-id"
        if not file.exists():
            file.write_text(_new_cluster_id())
        return file.read_text().strip()

    def _launch(self, java: Path, jars: Path, nodes: list[int] | None = None) -> None:
        nodes = nodes or list(range(1, self.config.nodes + 1))
        deadline = time.monotonic() + self.config.start_timeout
        for node in nodes:
            paths = self._paths(node)
            command = self._java(java, jars, paths, self.config.heap, "kafka.Kafka", str(paths.properties))
            paths.log.unlink(missing_ok=True)
            with paths.output.open("wb") as output:
                # A session of its own: the terminal's Ctrl-C is ours to decide about.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._processes[node] = process
            self._tell_watchdog(f"watch {process.pid}")
        for node in nodes:
            self._wait_until_ready(node, deadline)

    @staticmethod
    def _java(java: Path, jars: Path, paths: NodePaths, heap: str, *arguments: str) -> list[str]:
        return [
            str(java),
            f"-Xmx{heap}",
            "-XX:TieredStopAtLevel=1",  # up sooner, and leaves a small machine's processor to others
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={paths.log_config}",
            "-cp",
            f"{jars}/*",
            *arguments,
        ]

    def _wait_until_ready(self, node: int, deadline: float) -> None:
        everyone = set(range(1, self.config.nodes + 1)) & set(self._processes)
        while True:
            process = self._processes[node]
            if process.poll() is not None:
                raise self._early_end(node, process.returncode)
            with contextlib.suppress(OSError):
                if everyone <= unfenced_brokers(HOST, self._ports[node - 1].plain):
                    return
            if time.monotonic() > deadline:
                raise EnvironmentFault(
                    f"Kafka did not serve clients within {self.config.start_timeout:.0f} s",
                    hint=_last_error(self._paths(node)),
                )
            time.sleep(0.03)

    def _early_end(self, node: int, code: int) -> Exception:
        paths = self._paths(node)
        text = "\n".join(_tail(path) for path in (paths.log, paths.output))
        if "Address already in use" in text or "BindException" in text:
            return _PortTakenError()
        return EnvironmentFault(f"Kafka ended while it started (exit code {code})", hint=_last_error(paths))

    def _end_all(self, how: signal.Signals) -> None:
        for process in self._processes.values():
            process.send_signal(how)
        for node in list(self._processes):
            self._end(node, how)

    def _end(self, node: int, how: signal.Signals) -> None:
        process = self._processes.pop(node, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._tell_watchdog(f"forget {process.pid}")

    def _discard(self) -> None:
        self._end_all(signal.SIGKILL)
        if self.config.data_dir is None and self._data_dir is not None:
            shutil.rmtree(self._data_dir, ignore_errors=True)
        self._data_dir = None
        self._ports = []
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._watchdog is not None:
            self._tell_watchdog("done")
            with contextlib.suppress(OSError):
                self._watchdog.communicate(timeout=10)
            self._watchdog = None

    def _tell_watchdog(self, line: str) -> None:
        if self._watchdog is None:
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", watchdog.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        assert self._watchdog.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.stdin.write(line + "\n")
            self._watchdog.stdin.flush()


class _PortTakenError(Exception):
    """Somebody else got the port between our choice and Kafka's bind."""


def _new_cluster_id() -> str:
    """Kafka's text form of a random UUID; one with "-" in front would be an option to Kafka's tools."""
    while (text := base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _tail(path: Path, size: int = 16_384) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _last_error(paths: NodePaths) -> str:
    """The last error in a node's log, or in what its process printed."""
    return _error_in(_tail(paths.log)) or _error_in(_tail(paths.output)) or "Kafka said nothing"


def _error_in(text: str) -> str:
    """The last line that says ERROR or FATAL or names an exception, else the last line of all."""
    lines = [line for line in text.splitlines() if line.strip()]
    bad = [line for line in lines if any(word in line for word in ("ERROR", "FATAL", "Exception: "))]
    return f"Kafka said: {(bad or lines)[-1].strip()[:400]}" if lines else ""
