"""Compacted topics as tables: what a look-up sees of them, and when."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.producer import message_accumulator, producer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from click.testing import CliRunner

from streamproc.cli import cli
from streamproc.core.processor import Answer, Lookup
from streamproc.errors import UserError
from streamproc.kafka import admin
from streamproc.kafka import table as tables
from streamproc.kafka.connection import Connection
from streamproc.kafka.table import Table
from streamproc.metrics import REGISTRY
from streamproc.pipeline import open_pipeline
from streamproc.tables import holding
from streamproc.topics import check_topics
from tests.fast.lookup_plans import PIPELINE, TABLES, event, write
from tests.kafka import car_loan
from tests.kafka.conftest import TopicFactory
from tests.kafka.records import NotText, read_all
from tests.record_schemas import record_problems
from tests.redis_server import RedisServer, is_installed

PATIENCE = 20.0


async def say(connection: Connection, topic: str, rows: Mapping[str, Any], partition: int | None = None) -> None:
    """Write rows in one transaction; ``None`` for a tombstone, bytes as they are."""
    producer = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=f"t-{uuid4().hex}")
    await producer.start()
    try:
        async with producer.transaction():
            for key, row in rows.items():
                value = row if row is None or isinstance(row, bytes) else orjson.dumps(row)
                await producer.send(topic, value, key=key.encode(), partition=partition)
    finally:
        await producer.stop()


@asynccontextmanager
async def table_of(connection: Connection, folder: Path, topic: str, more: str = "") -> AsyncIterator[Table]:
    """The table of a pipeline, followed."""
    file = write(folder, PIPELINE, TABLES.replace("looks.profiles", topic).replace("customer}", f"customer{more}}}"))
    async with holding(open_pipeline(file), connection) as [table]:
        yield table


def ask(*keys: str, lanes: Sequence[int] | None = None) -> Lookup:
    where = None if lanes is None else np.array(lanes, np.int64)
    return Lookup("profiles", [key.encode() for key in keys], ("income", "tier"), where)


async def until(table: Table, asked: Lookup, values: Sequence[Any]) -> Answer:
    """The answer, once it is this one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = await table(asked)
        if list(answer.values) == list(values):
            return answer
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.01)


def test_a_table_shows_the_newest_row_of_each_key(connection: Connection, topic: TopicFactory, tmp_path: Path) -> None:
    async def story(name: str) -> None:
        await say(connection, name, {"a": {"income": 1, "tier": "x"}, "b": {"income": 2}, "c": {"income": 3}})
        await say(connection, name, {"a": {"income": 4, "more": [1]}, "b": None, "d": {"income": -1}, "e": b"{"})
        async with table_of(connection, tmp_path, name) as table:
            answer = await table(ask("a", "b", "c", "d", "e"))
            assert answer.values == [(4.0, None), None, (3.0, None), None, None]
            assert answer.reasons == [None, *["no_such_key"], None, "no_such_key", "no_such_key"]
            assert answer.health == ""
            assert len(table) == 2
            before = answer.version
            await say(connection, name, {"b": {"income": 7, "tier": "y"}, "c": None, "a": b"nonsense"})
            answer = await until(table, ask("a", "b", "c"), [None, (7.0, "y"), None])
            assert answer.version != before
            assert answer.version.split()[0] == name
            assert [part.split(":")[0] for part in answer.version.split()[1:]] == ["0", "1", "2"]
            assert table.age() < PATIENCE

    asyncio.run(story(topic(partitions=3, cleanup_policy="compact")))


@pytest.mark.parametrize("follows", [False, True])
def test_a_record_whose_header_has_no_name_is_a_refused_row(
    follows: bool,
    connection: Connection,
    topic: TopicFactory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(name: str) -> None:
        client = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=f"t-{uuid4().hex}")
        await client.start()
        async with client.transaction():
            await client.send(name, b'{"income": 7}', key=b"d")
            await client.send(name, b'{"income": 8}', key=b"b", headers=[("sound", None), (NotText("x"), b"x")])
            await client.send(name, b'{"income": 9}', key=b"c", headers=[("sound", b"x")])
        await client.begin_transaction()
        await client.send_and_wait(name, b'{"income": 10}', key=b"c", headers=[(NotText("x"), b"x")])
        await client.abort_transaction()
        await client.stop()
        await say(connection, name, {"e": {"income": 11}})

    async def story(name: str) -> None:
        await say(connection, name, {one: {"income": 1} for one in "abc"})
        if not follows:
            await broken(name)
        before = REGISTRY.get_sample_value("streamproc_table_refused_total", {"table": "profiles"}) or 0.0
        async with table_of(connection, tmp_path, name) as table:
            if follows:
                await broken(name)
            rows = [(1.0, None), None, (9.0, None), (7.0, None), (11.0, None)]
            await until(table, ask("a", "b", "c", "d", "e"), rows)
            await say(connection, name, {"b": {"income": 2}})
            await until(table, ask("b"), [(2.0, None)])
        assert REGISTRY.get_sample_value("streamproc_table_refused_total", {"table": "profiles"}) == before + 1
        assert f"{name}-0, offset 5: the name of a header is not UTF-8" in caplog.text

    caplog.set_level(logging.WARNING)
    for module in (producer, message_accumulator):
        monkeypatch.setattr(module, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
    asyncio.run(story(topic(partitions=1, cleanup_policy="compact")))


def test_a_fresh_table_shows_all_that_is_committed(connection: Connection, topic: TopicFactory, tmp_path: Path) -> None:
    async def story(name: str) -> None:
        async with table_of(connection, tmp_path, name, f", fresh: true, timeout: {PATIENCE:.0f}s") as table:
            for number in range(20):
                await say(connection, name, {"a": {"income": number}})
                assert (await table(ask("a"))).values == [(float(number), None)]
                await say(connection, name, {"a": None} if number % 2 else {"a": {"income": -1}})
                answer = await table(ask("a"))
                assert (answer.values, answer.reasons) == ([None], ["no_such_key"])

    asyncio.run(story(topic(partitions=2, cleanup_policy="compact")))


def test_what_is_not_committed_is_not_shown(connection: Connection, topic: TopicFactory, tmp_path: Path) -> None:
    async def story(name: str) -> None:
        await say(connection, name, {"a": {"income": 1}})
        producer = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=f"t-{uuid4().hex}")
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(name, b'{"income": 2}', key=b"a")
        async with table_of(connection, tmp_path, name, f", fresh: true, timeout: {PATIENCE:.0f}s") as table:
            assert (await table(ask("a"))).values == [(1.0, None)]
            await producer.abort_transaction()
            await producer.stop()
            assert (await table(ask("a"))).values == [(1.0, None)]

    asyncio.run(story(topic(cleanup_policy="compact")))


def test_a_table_that_is_too_old_says_so_and_a_fresh_one_gives_nothing(
    connection: Connection, topic: TopicFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def for_ever(self: Table) -> None:
        await asyncio.Event().wait()

    async def story(name: str) -> None:
        await say(connection, name, {"a": {"income": 1}})
        with monkeypatch.context() as patch:
            patch.setattr(Table, "follow", for_ever)  # as if the broker did not give it anything any more
            async with table_of(connection, tmp_path, name, ", staleness: 50ms, timeout: 100ms") as table:
                await say(connection, name, {"a": {"income": 2}})
                deadline = time.monotonic() + PATIENCE
                while (answer := await table(ask("a"))).health != "stale":
                    assert time.monotonic() < deadline
                assert answer.values == [(1.0, None)]
            async with table_of(connection, tmp_path, name, ", fresh: true, timeout: 100ms") as table:
                await say(connection, name, {"a": {"income": 3}})
                answer = await table(ask("a"))
                assert (answer.values, answer.reasons) == ([None], ["not_fresh"])
        async with table_of(connection, tmp_path, name, f", staleness: 50ms, timeout: {PATIENCE:.0f}s") as table:
            await until(table, ask("a"), [(3.0, None)])
            for _ in range(20):
                assert (await table(ask("a"))).health == ""

    asyncio.run(story(topic(cleanup_policy="compact")))


def test_lanes_hold_what_they_ask_for(
    connection: Connection, topic: TopicFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(name: str) -> None:
        for partition in range(3):
            await say(connection, name, {"a": {"income": partition}, "b": {"income": 9}}, partition)
        async with table_of(connection, tmp_path, name, ", hold: lanes") as table:
            assert len(table) == 0
            answer = await table(ask("a", "a", "x", lanes=[2, 0, 0]))
            assert answer.values == [(2.0, None), (0.0, None), None]
            assert [part.split(":")[0] for part in answer.version.split()[1:]] == ["0", "2"]
            assert len(table) == 4
            await say(connection, name, {"a": {"income": 5}}, 2)
            await until(table, ask("a", lanes=[2]), [(5.0, None)])
            assert (await table(ask("a", lanes=[1]))).values == [(1.0, None)]
            monkeypatch.setattr(tables, "LET_GO_SECONDS", 0.5)
            while len(table) > 2:
                await table(ask("a", lanes=[1]))
                await asyncio.sleep(0.01)
            deadline = time.monotonic() + PATIENCE
            while len(table):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            monkeypatch.setattr(tables, "LET_GO_SECONDS", 60.0)
            assert (await table(ask("a", lanes=[2]))).values == [(5.0, None)]

    asyncio.run(story(topic(partitions=3, cleanup_policy="compact")))


def test_a_lane_that_the_table_has_no_partition_for_blocks_no_other(
    connection: Connection, topic: TopicFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(name: str) -> None:
        await say(connection, name, {"a": {"income": 5}}, 0)
        async with table_of(replace(connection, metadata_max_age_ms=500), tmp_path, name, ", hold: lanes") as table:
            answer = await table(ask("a", "a", lanes=[0, 3]))
            assert (answer.values, answer.reasons) == ([(5.0, None), None], [None, "no_such_partition"])
            client = AIOKafkaAdminClient(**connection.client_kwargs())
            await client.start()
            await client.create_partitions({name: NewPartitions(4)})
            await client.close()
            await say(connection, name, {"a": {"income": 7}}, 3)
            await until(table, ask("a", "a", lanes=[0, 3]), [(5.0, None), (7.0, None)])

    asyncio.run(story(topic(partitions=2, cleanup_policy="compact")))
    assert "has 2 partitions and so none for lane 3" in caplog.text


def test_a_worker_does_not_start_where_lanes_and_partitions_of_a_table_differ(
    connection: Connection, tmp_path: Path
) -> None:
    name = f"looks-{uuid4().hex[:8]}"
    lanes = TABLES.replace("customer}", "customer, hold: lanes}")
    file = write(tmp_path, PIPELINE.replace("looks", name), lanes.replace("looks", name))
    asyncio.run(admin.create(connection, [admin.TopicSpec(f"{name}.events", 4)]))
    asyncio.run(admin.create(connection, [admin.TopicSpec(f"{name}.profiles", 3, cleanup_policy="compact")]))
    result = CliRunner().invoke(cli, ["run", str(file), "--kafka", connection.address])
    assert isinstance(result.exception, UserError)
    assert f"topic {name}.profiles: its partition count is 3, not 4" in result.exception.message
    assert "needs 4 partitions" in result.exception.hint and "take `hold: lanes` out" in result.exception.hint


def test_partitions_that_are_added_are_read_too(connection: Connection, topic: TopicFactory, tmp_path: Path) -> None:
    async def story(name: str) -> None:
        async with table_of(replace(connection, metadata_max_age_ms=500), tmp_path, name) as table:
            client = AIOKafkaAdminClient(**connection.client_kwargs())
            await client.start()
            await client.create_partitions({name: NewPartitions(3)})
            await client.close()
            await say(connection, name, {"a": {"income": 7}}, 2)
            answer = await until(table, ask("a"), [(7.0, None)])
            assert [part.split(":")[0] for part in answer.version.split()[1:]] == ["0", "1", "2"]

    asyncio.run(story(topic(cleanup_policy="compact")))


def test_topics_are_made_compacted_and_others_are_refused(connection: Connection, tmp_path: Path) -> None:
    name = f"looks-{uuid4().hex[:8]}"
    file = write(tmp_path, PIPELINE.replace("looks", name), TABLES.replace("looks", name))
    asyncio.run(admin.create(connection, [admin.TopicSpec(f"{name}.events", 2)]))
    options = ["--kafka", connection.address]
    result = CliRunner().invoke(cli, ["topics", str(file), "--create", *options])
    assert result.exit_code == 0, result.output
    infos = asyncio.run(admin.describe(connection, [f"{name}.profiles"]))
    assert infos[f"{name}.profiles"].configs["cleanup.policy"] == "compact"
    acls = CliRunner().invoke(cli, ["topics", str(file), "--acls", *options]).output
    assert any("Read" in line and f"{name}.profiles" in line and "Write" not in line for line in acls.splitlines())
    asyncio.run(admin.delete_topics(connection, [f"{name}.profiles"]))
    asyncio.run(admin.create(connection, [admin.TopicSpec(f"{name}.profiles", 5, cleanup_policy="delete")]))
    from streamproc.topics import pipeline_topics
    from streamproc.worker import agents

    pipeline = open_pipeline(file)
    rows = pipeline_topics(pipeline.loaded, agents(pipeline, 2), 2)
    with pytest.raises(UserError, match=r"cleanup\.policy is delete"):
        asyncio.run(check_topics(connection, rows, create=False))


WORKER = """
pipeline: NAME
events: {topic: NAME.events, schema: event.schema.json, key: id, time: time}
tables: {profiles: {topic: NAME.profiles, schema: profile.schema.json, key: customer, fresh: true, timeout: 20s}}
stores:
  risk: {redis: "redis://:${REDIS_PASSWORD}@127.0.0.1:${REDIS_PORT}", key: customer, as: "risk:{}", hash: true,
         timeout: 200ms, breaker: {calls: 2, wait: 200ms}}
features:
  income: {lookup: profiles, field: income, default: -1}
  risk: {lookup: risk, field: score, type: number, default: 0.5}
rules:
  - {id: risky, when: risk > 0.8, decide: decline}
  - {id: rest, decide: approve}
actions: {approve: NAME.approvals, decline: NAME.declines}
topics: {partitions: 2}
"""


@pytest.mark.timeout(180)
@pytest.mark.skipif(not is_installed(), reason="no redis-server is installed")
def test_a_worker_sees_what_was_committed_and_goes_on_without_its_store(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"looks-{uuid4().hex[:8]}"
    made = car_loan.Example(name, write(tmp_path, WORKER.replace("NAME", name)), connection)
    asyncio.run(admin.create(connection, [admin.TopicSpec(f"{name}.events", 2)]))
    asyncio.run(admin.create(connection, [admin.TopicSpec(f"{name}.profiles", 3, cleanup_policy="compact")]))
    asyncio.run(say(connection, f"{name}.profiles", {f"c{n}": {"income": n} for n in range(50)}))
    with RedisServer(tmp_path) as server:
        monkeypatch.setenv("REDIS_PASSWORD", server.url.split("@")[0].rpartition(":")[2])
        monkeypatch.setenv("REDIS_PORT", str(server.port))
        with server.client() as client:
            client.hset("risk:c7", "score", "0.9")
        with car_loan.worker(made):
            send = [(b"%d" % n, event(n, f"c{n}")) for n in range(100)]
            car_loan.produce(connection, made.topic("events"), send)
            car_loan.wait_for_results(made, 100)
            # Each row is committed before its event is sent.
            for number in range(100, 110):
                asyncio.run(say(connection, f"{name}.profiles", {f"c{number}": {"income": number}}))
                car_loan.produce(connection, made.topic("events"), [(b"x", event(number, f"c{number}"))])
            car_loan.wait_for_results(made, 110)
            server.kill()
            car_loan.produce(connection, made.topic("events"), [(b"x", event(n, "c7")) for n in range(200, 250)])
            car_loan.wait_for_results(made, 160)
            server.start()
            with server.client() as client:
                client.hset("risk:c7", "score", "0.9")
            number, deadline = 1000, time.monotonic() + PATIENCE
            while True:
                car_loan.produce(connection, made.topic("events"), [(b"x", event(number, "c7"))])
                car_loan.wait_for_results(made, 160 + number - 999)
                if _decisions(made)[number]["decision"] == "decline":
                    break
                number += 1
                assert time.monotonic() < deadline
    found = _decisions(made)
    for number in (*range(50), *range(100, 110)):
        assert found[number]["features"]["income"] == number
    assert all(found[number]["features"]["income_missing"] for number in range(50, 100))
    assert [number for number in range(100) if found[number]["decision"] == "decline"] == [7]
    assert all(found[number]["features"]["risk_missing"] for number in range(200, 250))
    assert found[0]["lookups"]["profiles"].startswith(f"{name}.profiles 0:")
    for record in made.read("decisions"):
        assert record_problems(record.value, record.headers) == []
    log = (tmp_path / "worker.log").read_text()
    assert "s3cret" not in log and "c7" not in log


def _decisions(made: car_loan.Example) -> dict[int, Any]:
    records = asyncio.run(read_all(made.connection, made.topic("decisions")))
    return {int(one["key"]): one for one in (orjson.loads(record.value) for record in records)}
