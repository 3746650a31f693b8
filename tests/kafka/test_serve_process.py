"""What ends a door, what makes it unready, and what its sockets bear."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.serve.listening import HANDSHAKE_SECONDS
from tests.kafka import car_loan
from tests.kafka.doors import door, wait_until_ready

CONNECTIONS = 20


async def grow(connection: Connection, topic: str, partitions: int) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=connection.address)
    await client.start()
    try:
        await client.create_partitions({topic: NewPartitions(partitions)})
    finally:
        await client.close()


@pytest.mark.parametrize(("role", "said"), [("events", "lanes stop as well"), ("decisions", "start the door again")])
def test_a_topic_that_has_other_partitions_ends_the_door(connection: Any, role: str, said: str) -> None:
    made = car_loan.make(connection, partitions=2)
    car_loan.command(made, "topics", str(made.file), "--create")
    with door(made) as opened:
        asyncio.run(grow(connection, made.topic(role), 3))
        assert opened.process.wait(60) == 1
    log = (made.file.parent / "door.log").read_text()
    assert f"topic '{made.topic(role)}' has 3 partitions now and had 2" in log and said in log


def test_a_door_that_cannot_read_what_is_decided_is_not_ready(connection: Any) -> None:
    made = car_loan.make(connection, partitions=2)
    car_loan.command(made, "topics", str(made.file), "--create")
    with door(made) as opened:
        asyncio.run(admin.delete_topics(connection, [made.topic("decisions")]))
        wait_until_ready(opened, status=503, seconds=60)
        said = opened.call("GET", "/readyz").json
        assert said["unread_seconds"] > 10 and not said["broker_away"]
        assert opened.call("GET", "/healthz").status == 200


def test_what_the_readme_asks_is_answered_as_it_says(connection: Any) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    call = re.search(r"curl -s 'localhost:8080(\S+)' -H 'Content-Type: (\S+)' -d '(.+?)'\n(.+?)\n", text, re.S)
    assert call is not None
    path, kind, event, answer = call.groups()
    made = car_loan.make(connection, partitions=1)
    with car_loan.worker(made), door(made) as opened:
        assert opened.decide(event.encode()).status == 200  # the worker has begun
        asked = opened.call("POST", path, event.encode(), {"Content-Type": kind})
    assert asked.status == 200
    told = dict(re.findall(r'"(\w+)":"(\w+)"', answer))
    assert len(told) == 4 and told == {name: asked.json[name] for name in told}


def test_handshakes_are_counted_and_ended(connection: Any, tmp_path: Path) -> None:
    made = car_loan.make(connection, partitions=1)
    car_loan.command(made, "topics", str(made.file), "--create")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "door.pem")
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    options = ("--tls-certificate", str(tmp_path / "door.pem"), "--connections", str(CONNECTIONS))
    with door(made, *options, context=context) as opened, ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", opened.port), timeout=60))

        plain = connect()
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: door\r\n\r\n")
        assert b"HTTP" not in received(plain)
        began = time.monotonic()
        silent = [connect() for _ in range(CONNECTIONS)]
        for connection_ in silent[::2]:
            connection_.sendall(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello that does not go on
        asked = time.monotonic()
        assert received(connect()) == b""
        assert time.monotonic() - asked < HANDSHAKE_SECONDS, "one too many is closed at once"
        with pytest.raises(OSError):
            opened.call("GET", "/healthz")
        assert all(b"HTTP" not in received(one) for one in silent)
        assert time.monotonic() - began < 50, "asyncio by itself waits for a minute"
        wait_until_ready(opened)
        kept = [opened.connect() for _ in range(CONNECTIONS)]  # those behind their handshakes count on
        for one in kept:
            one.connect()
        assert received(connect()) == b""
        for one in kept:
            one.request("GET", "/healthz")
            assert one.getresponse().read() == b'{"ok":true}'
            one.close()
    log = (made.file.parent / "door.log").read_text()
    assert "Traceback" not in log and "never retrieved" not in log


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    came = b""
    try:
        while part := connection.recv(4096):
            came += part
    except ConnectionResetError:
        pass
    return came
