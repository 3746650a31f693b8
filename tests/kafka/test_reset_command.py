"""A lane that stops says why and how to go on; ``streamproc reset`` is that way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamproc.core.processor import Batch, Effects, Seen, State, Steps
from streamproc.core.state import changelog_key
from streamproc.errors import UserError
from streamproc.kafka import admin
from streamproc.kafka.agent import Agent
from streamproc.kafka.connection import Connection
from streamproc.kafka.group import Claim, Committed, GroupOffsets, Member
from streamproc.kafka.members import group_members
from streamproc.kafka.producer import end_transactions_of
from streamproc.pipeline import open_pipeline
from streamproc.reset import carry_out, survey, wait_until_empty
from streamproc.worker import agents
from tests.kafka import car_loan
from tests.kafka.car_loan import Example, command
from tests.kafka.conftest import TopicFactory
from tests.kafka.records import read_all
from tests.kafka.test_dedupe import DEDUPE

STOPS_WITHIN = 60.0


async def committed(connection: Connection, app: str, tps: Sequence[TopicPartition]) -> dict[Any, Committed]:
    offsets = GroupOffsets(connection, app)
    await offsets.start()
    try:
        return await offsets.fetch(tps, stable=True)
    finally:
        await offsets.stop()


async def commit(connection: Connection, app: str, offsets: dict[TopicPartition, tuple[int, Claim]]) -> None:
    one = GroupOffsets(connection, app)
    await one.start()
    try:
        await one.commit(Member(app), offsets)
    finally:
        await one.stop()


def stops(made: Example) -> str:
    """Run a worker that must end by itself with exit code 1, in bounded time; what it logged."""
    with car_loan.worker(made) as process:
        code = process.wait(STOPS_WITHIN)
    log = (made.file.parent / "worker.log").read_text()
    assert code == 1, log[-2000:]
    return log


def reset(made: Example, *arguments: str, code: int = 0) -> str:
    return command(made, "reset", str(made.file), *arguments, code=code).stdout


def test_a_topic_made_anew(connection: Connection) -> None:
    made = car_loan.make(connection)
    events = made.topic("events")
    car_loan.produce(connection, events, car_loan.events(40, damaged=False))
    car_loan.run_worker_until(made, 40)
    asyncio.run(wait_until_empty(connection, made.name, 20))
    asyncio.run(admin.delete_topics(connection, [events]))
    asyncio.run(admin.create(connection, [admin.TopicSpec(events, 2)]))
    car_loan.produce(connection, events, car_loan.events(60, damaged=False)[40:])
    log = stops(made)
    assert f"topic '{events}' was deleted and made anew" in log
    assert "streamproc reset FILE --lane" in log

    told = reset(made, "--all", "--to", "earliest", "--dry-run", "--wait", "20")
    assert "nothing was changed" in told
    with pytest.raises(UserError, match="nothing was changed"):
        reset(made, "--all", "--to", "earliest", "--wait", "20")
    assert "done" in reset(made, "--all", "--to", "earliest", "--yes", "--wait", "20")
    car_loan.run_worker_until(made, 60)
    assert sorted(record.key for record in made.read("decisions")) == [b"%d" % n for n in range(50_000, 50_060)]


def test_an_offset_out_of_range_and_what_follows(connection: Connection) -> None:
    made = car_loan.make(connection)
    events = made.topic("events")
    car_loan.produce(connection, events, car_loan.events(40, damaged=False))
    car_loan.run_worker_until(made, 40)
    asyncio.run(wait_until_empty(connection, made.name, 20))
    tp = TopicPartition(events, 1)
    before = asyncio.run(committed(connection, made.name, [tp]))[tp]
    assert before.claim is not None
    asyncio.run(commit(connection, made.name, {tp: (before.offset + 500, before.claim)}))
    log = stops(made)
    assert f"{events}-1: the committed offset {before.offset + 500} is not in the topic any more" in log
    assert "streamproc reset FILE --lane 1 --to" in log

    waiting = ("--wait", "20")
    with pytest.raises(UserError, match=f"has no offset {before.offset + 500}"):
        reset(made, "--lane", "1", "--to", "committed", *waiting)
    with pytest.raises(UserError, match=r"has no offset 700 \(it holds 0 to"):
        reset(made, "--lane", "1", "--to", "700")
    with pytest.raises(UserError, match="has no lane 2"):
        reset(made, "--lane", "2", "--to", "earliest")
    assert "none of earliest" in command(made, "reset", str(made.file), "--all", "--to", "noon", code=2).output
    assert "--lane N" in command(made, "reset", str(made.file), "--to", "earliest", code=2).output
    assert f"{before.offset} events are decided again" in reset(made, "--lane", "1", "--to", "2020-01-01", "--dry-run")
    told = reset(made, "--lane", "1", "--to", str(before.offset - 3), "--yes")
    assert "3 events are decided again" in told
    car_loan.run_worker_until(made, 43)
    ids = [orjson.loads(record.value)["id"] for record in made.read("decisions")]
    assert (len(ids), len(set(ids))) == (43, 40)


def test_not_under_a_running_worker(connection: Connection) -> None:
    made = car_loan.make(connection)
    car_loan.produce(connection, made.topic("events"), car_loan.events(10, damaged=False))
    with car_loan.worker(made):
        car_loan.wait_for_results(made, 10)
        assert [m.host for m in asyncio.run(group_members(connection, made.name))] == ["127.0.0.1"]
        with pytest.raises(UserError, match=r"1 live member \(") as caught:
            reset(made, "--all", "--to", "earliest", "--yes", "--wait", "0")
        assert "stop all workers" in caught.value.hint
        loaded = asyncio.run(survey(connection, made.name, [agent(made.topic("events"))], None, "earliest"))
        with pytest.raises(UserError, match=r"a worker of .* has started meanwhile"):
            asyncio.run(carry_out(connection, made.name, loaded, drop_state=False))
    assert asyncio.run(group_members(connection, "never-heard-of")) == []


def test_a_worker_that_starts_while_it_asks_keeps_its_state(connection: Connection) -> None:
    made = car_loan.make(connection, changes=DEDUPE)
    car_loan.produce(connection, made.topic("events"), car_loan.events(40, damaged=False))
    car_loan.run_worker_until(made, 40)
    asyncio.run(wait_until_empty(connection, made.name, 20))
    deciding = agents(open_pipeline(made.file), 2)[:1]
    changelog = deciding[0].changelog(made.name)
    asked = asyncio.run(survey(connection, made.name, deciding, None, "earliest"))
    before = asyncio.run(read_all(connection, changelog))
    assert all(lane.state for lane in asked)

    with car_loan.worker(made):
        car_loan.produce(connection, made.topic("events"), car_loan.events(80, damaged=False)[40:])
        car_loan.wait_for_results(made, 80)
        with pytest.raises(UserError, match="meanwhile: nothing was changed"):
            asyncio.run(carry_out(connection, made.name, asked, drop_state=True))
    asyncio.run(wait_until_empty(connection, made.name, 20))
    with pytest.raises(UserError, match="has run meanwhile: nothing was changed"):
        asyncio.run(carry_out(connection, made.name, asked, drop_state=True))
    after = asyncio.run(read_all(connection, changelog))
    assert len(after) > len(before)
    assert [record.key for record in after if record.value is None] == []


@pytest.mark.parametrize("comes", ["joins", "ends what is open"])
def test_a_worker_that_comes_in_between_keeps_its_state(
    connection: Connection, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    """At the one moment at which the group was empty and the offsets are pending."""
    app, events = topic(1), topic(1)
    counting = agent(events, tables=("counts",))
    changelog, key = counting.changelog(app), changelog_key("counts", b"a")
    asyncio.run(admin.create(connection, [admin.TopicSpec(changelog, 1, cleanup_policy="compact")]))
    tp, claim = TopicPartition(events, 0), Claim("somebody", 4, "", 1)

    async def between(connection: Connection, group: str) -> list[object]:
        monkeypatch.undo()
        if comes == "joins":
            joining = AIOKafkaConsumer(events, **connection.client_kwargs(), group_id=app)
            await joining.start()
            try:
                return list(await group_members(connection, group))
            finally:
                await joining.stop()
        pending = GroupOffsets(connection, app)
        await pending.start()
        try:
            assert await pending.fetch([tp], stable=True) == {}
            [last] = (await pending.fetch([tp], stable=False)).values()
        finally:
            await pending.stop()
        assert last.offset == 1 and last.claim is not None  # where it was
        await end_transactions_of(connection, last.claim.owner)
        return []

    async def run() -> None:
        producer = AIOKafkaProducer(**connection.client_kwargs())
        await producer.start()
        try:
            await producer.send_and_wait(events, b"e", partition=0)
            await producer.send_and_wait(changelog, b"1", key=key, partition=0)
        finally:
            await producer.stop()

    asyncio.run(run())
    asyncio.run(commit(connection, app, {tp: (1, claim)}))
    lanes = asyncio.run(survey(connection, app, [counting], None, "earliest"))
    monkeypatch.setattr("streamproc.reset.group_members", between)
    with pytest.raises(UserError, match="has started meanwhile: nothing was changed"):
        asyncio.run(carry_out(connection, app, lanes, drop_state=True))
    assert [record.value for record in asyncio.run(read_all(connection, changelog))] == [b"1"]
    found = asyncio.run(committed(connection, app, [tp]))[tp]
    assert found.offset == 1

    asyncio.run(wait_until_empty(connection, app, 20))
    again = asyncio.run(survey(connection, app, [counting], None, "earliest"))
    asyncio.run(carry_out(connection, app, again, drop_state=True))
    assert [record.value for record in asyncio.run(read_all(connection, changelog))] == [b"1", None]
    assert asyncio.run(committed(connection, app, [tp]))[tp].offset == 0


class Nothing:
    """A processor that does nothing."""

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        return Effects()
        yield []

    tick = process  # type: ignore[assignment]


def agent(*topics: str, tables: tuple[str, ...] = ()) -> Agent:
    return Agent("count", topics, Nothing(), tables=tables)


def test_state_is_dropped_or_kept(connection: Connection, topic: TopicFactory) -> None:
    app, events, other = topic(1), topic(2), topic(2)
    counting = agent(events, other, tables=("counts",))
    changelog = counting.changelog(app)
    asyncio.run(admin.create(connection, [admin.TopicSpec(changelog, 2, cleanup_policy="compact")]))

    async def write() -> None:
        producer = AIOKafkaProducer(**connection.client_kwargs())
        await producer.start()
        try:
            for n in range(5):
                await producer.send_and_wait(events, b"e", partition=0)
                key = changelog_key("counts", b"%d" % n)
                await producer.send_and_wait(changelog, b"1", key=key, partition=n % 2)
            await producer.send_and_wait(changelog, None, key=changelog_key("counts", b"0"), partition=0)
        finally:
            await producer.stop()

    asyncio.run(write())
    with pytest.raises(UserError, match="one offset cannot be meant for all"):
        asyncio.run(survey(connection, app, [counting], [0], 3))
    [lane] = asyncio.run(survey(connection, app, [counting], [0], "latest"))
    assert lane.state == (changelog_key("counts", b"2"), changelog_key("counts", b"4"))
    assert [(move.target, move.skipped, move.repeated, move.gone) for move in lane.moves] == [
        (5, 5, 0, 0),
        (0, 0, 0, 0),
    ]
    asyncio.run(carry_out(connection, app, [lane], drop_state=True))
    tps = [TopicPartition(events, 0), TopicPartition(other, 0)]
    found = asyncio.run(committed(connection, app, tps))
    assert [found[tp].offset for tp in tps] == [5, 0]
    claims = [entry.claim for entry in found.values()]
    assert all(claim is not None and (claim.number, claim.partitions) == (1, 2) for claim in claims)
    live: dict[bytes, bytes | None] = {}
    for record in asyncio.run(read_all(connection, changelog)):
        live[record.key] = record.value
    assert {key for key, value in live.items() if value} == {
        changelog_key("counts", b"1"),
        changelog_key("counts", b"3"),
    }

    later = asyncio.run(survey(connection, app, [counting], None, "earliest"))
    assert [len(one.state) for one in later] == [0, 2]
    assert later[0].moves[0].repeated == 5
    ago = asyncio.run(survey(connection, app, [counting], [0], datetime.now().astimezone() - timedelta(hours=1)))
    assert ago[0].moves[0].target == 0
    asyncio.run(carry_out(connection, app, later, drop_state=False))
    number = asyncio.run(committed(connection, app, tps))[tps[0]].claim
    assert number is not None
    assert number.number == 2
