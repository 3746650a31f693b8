"""``streamproc produce`` and ``streamproc tail`` against a real broker."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result

from streamproc.cli.produce import produce
from streamproc.cli.tail import tail
from streamproc.core.partitioner import partitions
from streamproc.errors import UserError
from streamproc.kafka.connection import Connection
from tests.kafka.conftest import TopicFactory


def run(command: object, *arguments: str, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(command, arguments, input=stdin)  # type: ignore[arg-type]
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def records(connection: Connection, topic: str, *more: str) -> list[dict[str, object]]:
    shown = run(tail, topic, "--json", "--from", "beginning", "--until-end", "--kafka", connection.address, *more)
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_ndjson_is_sent_byte_for_byte(connection: Connection, topic: TopicFactory, tmp_path: Path) -> None:
    name = topic(partitions=4)
    lines = [b'{"id": "a%d",  "n": %d}' % (n, n) for n in range(50)] + [b"{broken", b'{"n": 1}', b"\xff\xfe"]
    (tmp_path / "events.ndjson").write_bytes(b"\r\n".join(lines) + b"\n\n")
    file = str(tmp_path / "events.ndjson")
    said = run(produce, file, "--topic", name, "--key", "id", "--kafka", connection.address)
    assert "53 records" in said.stderr
    assert "3 rows had no id" in said.stderr
    assert said.stdout == ""
    found = records(connection, name)
    assert len(found) == 53
    keyed = {one["key"]: one for one in found if one["key"]}
    assert set(keyed) == {f"a{n}" for n in range(50)}
    expected = partitions([key.encode() for key in keyed], 4, 0).tolist()
    assert [one["partition"] for one in keyed.values()] == expected
    assert keyed["a7"]["value"] == {"id": "a7", "n": 7}
    odd = [one for one in found if not one["key"]]
    assert {one.get("value_base64") for one in odd} == {None, "//4="}
    assert "{broken" in [one.get("value") for one in odd]


def test_tables_become_json(connection: Connection, topic: TopicFactory, tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [1, 2, 3], "x": [0.5, None, 2.0], "t": ["a", "b", "ü"]})
    frame.write_csv(tmp_path / "rows.csv")
    frame.write_parquet(tmp_path / "rows.parquet")
    for file in ("rows.csv", "rows.parquet"):
        name = topic()
        run(produce, str(tmp_path / file), "--topic", name, "--key", "id", "--kafka", connection.address)
        found = records(connection, name)
        assert [one["value"] for one in found] == frame.to_dicts()
        assert [one["key"] for one in found] == ["1", "2", "3"]


def test_standard_input_file_and_pipe(connection: Connection, topic: TopicFactory) -> None:
    name = topic()
    run(produce, "-", "--topic", name, "--kafka", connection.address, stdin=b"1\n2\n")
    command = [sys.executable, "-c", "from streamproc.cli.produce import produce; produce()"]
    done = subprocess.run(
        [*command, "-", "--topic", name, "--kafka", connection.address],
        input=b"3\n4",
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"2 records" in done.stderr
    assert [one["value"] for one in records(connection, name)] == [1, 2, 3, 4]


def test_a_rate_is_kept(connection: Connection, topic: TopicFactory, tmp_path: Path) -> None:
    name = topic()
    (tmp_path / "n.ndjson").write_text("1\n" * 60)
    began = time.monotonic()
    run(produce, str(tmp_path / "n.ndjson"), "--topic", name, "--rate", "100", "--kafka", connection.address)
    assert time.monotonic() - began >= 0.58


def test_a_missing_topic_is_made_on_request_only(connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "n.ndjson").write_text("1\n")
    arguments = [str(tmp_path / "n.ndjson"), "--topic", "made-by-produce", "--kafka", connection.address]
    with pytest.raises(UserError, match="topic made-by-produce does not exist") as caught:
        run(produce, *arguments)
    assert "--create-topic" in caught.value.hint
    run(produce, *arguments, "--create-topic", "--partitions", "3")
    assert len(records(connection, "made-by-produce")) == 1


def test_a_record_that_is_too_large(connection: Connection, topic: TopicFactory, tmp_path: Path) -> None:
    name = topic(max_message_bytes=2000)
    (tmp_path / "n.ndjson").write_bytes(b"1\n" + b"2" * 5000 + b"\n")
    with pytest.raises(UserError, match="larger than topic"):
        run(produce, str(tmp_path / "n.ndjson"), "--topic", name, "--kafka", connection.address)


async def transactions(connection: Connection, topic: str) -> None:
    """Three committed records, then two of an aborted transaction."""
    producer = AIOKafkaProducer(**connection.client_kwargs(), transactional_id=topic)
    await producer.start()
    try:
        async with producer.transaction():
            for n in range(3):
                await producer.send_and_wait(topic, b'{"n": %d}' % n, b"k", headers=[("type", b"t")])
        await producer.begin_transaction()
        for _ in range(2):
            await producer.send_and_wait(topic, b"aborted")
        await producer.abort_transaction()
    finally:
        await producer.stop()


def test_tail_shows_what_was_committed(connection: Connection, topic: TopicFactory) -> None:
    name = topic()
    asyncio.run(transactions(connection, name))
    found = records(connection, name)
    assert [one["value"] for one in found] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert found[0]["headers"] == [["type", "t"]]
    assert [one["offset"] for one in records(connection, name, "--limit", "2")] == [0, 1]
    text = run(tail, name, "--from", "2", "--until-end", "--kafka", connection.address).stdout
    assert "0@2  key=k" in text
    assert "  type: t" in text
    assert '    "n": 2' in text


def test_tail_of_an_empty_or_missing_topic(connection: Connection, topic: TopicFactory) -> None:
    assert records(connection, topic(partitions=3)) == []
    with pytest.raises(UserError, match="topic not-there does not exist"):
        records(connection, "not-there")


def test_tail_follows_until_ctrl_c(connection: Connection, topic: TopicFactory) -> None:
    name = topic()
    command = [sys.executable, "-c", "from streamproc.cli.tail import tail; tail()"]
    arguments = [name, "--json", "--from", "beginning", "--kafka", connection.address]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        for number in (b"1", b"2"):  # the second one after the first has been shown
            run(produce, "-", "--topic", name, "--kafka", connection.address, stdin=number)
            assert json.loads(process.stdout.readline())["value"] == int(number)
        process.send_signal(signal.SIGINT)
        said, problems = process.communicate(timeout=30)
    assert (process.returncode, said, problems) == (0, b"", b"")
