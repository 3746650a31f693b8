"""Three brokers: nothing is lost without any one of them, and the command starts them."""

from __future__ import annotations

import asyncio
import json
import select
import signal
import subprocess
import sys
from collections import Counter

import psutil
import pytest
from aiokafka import AIOKafkaProducer

from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import BrokerConfig, DevBroker
from streamproc.kafka.dev_broker.wire import unfenced_brokers
from tests.kafka.records import read_all

PARTITIONS = 3
SECONDS = 60


async def send(connection: Connection, topic: str, text: bytes) -> None:
    """One record to each partition, on two brokers at least."""
    producer = AIOKafkaProducer(**connection.client_kwargs(), enable_idempotence=True)
    async with asyncio.timeout(SECONDS):
        await producer.start()
        try:
            for partition in range(PARTITIONS):
                await producer.send_and_wait(topic, text, partition=partition)
        finally:
            await producer.stop()


@pytest.mark.timeout(240)
def test_a_cluster_takes_records_without_any_one_of_its_brokers() -> None:
    with DevBroker(BrokerConfig(nodes=3, heap="256m")) as broker:
        connection = Connection(tuple(broker.address.split(",")))
        asyncio.run(admin.create(connection, [admin.TopicSpec("kept", PARTITIONS)]))
        info = asyncio.run(admin.describe(connection, ["kept"]))["kept"]
        assert (info.replication, info.configs["min.insync.replicas"]) == (3, "2")
        for node in (1, 2, 3):
            broker.kill(node)
            assert not broker.running
            asyncio.run(send(connection, "kept", b"without %d" % node))
            broker.restart(node)
            assert broker.running
        broker.restart()  # all of it, cleanly
        asyncio.run(send(connection, "kept", b"with all"))
        found = Counter(record.value for record in asyncio.run(read_all(connection, "kept")))
        assert found == dict.fromkeys((b"without 1", b"without 2", b"without 3", b"with all"), PARTITIONS)


@pytest.mark.timeout(120)
def test_the_command_starts_a_cluster_and_ends_all_of_it() -> None:
    command = [sys.executable, "-m", "streamproc", "dev", "--brokers", "3", "--heap", "256m", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 90)[0]
        facts = json.loads(process.stdout.readline())
        addresses = facts["address"].split(",")
        ports = [int(address.rpartition(":")[2]) for address in addresses]
        assert [unfenced_brokers("127.0.0.1", port) for port in ports] == [{1, 2, 3}] * 3
        process.send_signal(signal.SIGTERM)
        _, problems = process.communicate(timeout=30)
    assert (process.returncode, problems) == (0, b"")
    assert len(facts["pids"]) == 3
    assert not any(psutil.pid_exists(pid) for pid in facts["pids"])
