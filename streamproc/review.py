"""Cases of review as their topics tell of them, and saying something about one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streamproc.core.intake import KEY, SIGNATURE
from streamproc.core.records import TYPED, Topics, text_headers
from streamproc.core.review.event import CLOSING
from streamproc.core.review.said import Said, encode, lane_of_item
from streamproc.core.review.sample import verdict_id
from streamproc.errors import BrokerUnavailable, UserError
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import Progress, reading

ANSWER_SECONDS = 15.0
LOOK_SECONDS = 0.05
SLACK = timedelta(hours=1)
"""Clocks differ, and a case is told of a moment after its event."""


@dataclass(slots=True)
class Shown:
    """A review item, and what happened to it, oldest first."""

    item: Mapping[str, Any] | None = None
    events: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether it waits for an answer."""
        return self.item is not None and not any(event["step"] in CLOSING for event in self.events)

    def claimed(self, now: datetime) -> str | None:
        """Who works on it."""
        for event in reversed(self.events):
            if event["step"] == "released":
                return None
            if event["step"] == "claimed":
                return event["by"] if datetime.fromisoformat(event["until"]) > now else None
        return None


async def read_cases(
    connection: Connection, pipeline: str, since: datetime | None, progress: Progress | None = None
) -> dict[str, Shown]:
    """The cases of which anything was told since a time, by their items' ids."""
    topics, cases = Topics.of(pipeline), dict[str, Shown]()
    async with reading(connection, topics.review) as reader:
        async for records in reader.scan(since or "beginning", progress=progress):
            for record in records:
                item = orjson.loads(record.value)
                cases.setdefault(item["id"], Shown()).item = item
    async with reading(connection, topics.review_events) as reader:
        async for records in reader.scan(since or "beginning", progress=progress):
            for record in records:
                event = orjson.loads(record.value)
                cases.setdefault(event["item"], Shown()).events.append(event)
    return cases


async def say(
    connection: Connection, pipeline: str, said: Said, signature: tuple[str, bytes] | None = None
) -> Mapping[str, Any]:
    """Say something about a case, and return what came of it: a review event.

    ``signature`` is the name of a key and what it makes of the value. Raises UserError where it did not count.
    """
    lane = lane_of_item(said.id)
    if lane is None:
        raise UserError(f"{said.id} is no review item", "`streamproc review FILE list` shows them")
    topics = Topics.of(pipeline)
    async with reading(connection, topics.review_events) as reader:
        if lane >= reader.partitions:
            raise UserError(f"{said.id} is no item of {pipeline}", "`streamproc review FILE list` shows them")
        _, before = await reader.kept(lane)
        refused = await _letters_end(connection, topics.dead_letters)
        place = await _send(connection, topics.verdicts, encode(said), signature)
        until = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < until:
            _, end = await reader.kept(lane)
            async for records in reader.between(lane, before, end):
                for record in records:
                    event: Mapping[str, Any] = orjson.loads(record.value)
                    if _is_answer(event, said):
                        return event
            before = end
            await _raise_if_refused(connection, topics.dead_letters, refused, topics.verdicts, place)
            await asyncio.sleep(LOOK_SECONDS)
    raise BrokerUnavailable(
        f"nothing came of it within {ANSWER_SECONDS:.0f} s: said again, it counts once",
        "is a worker of the pipeline running? An answer that was given already changes nothing, and tells nothing",
    )


def _is_answer(event: Mapping[str, Any], said: Said) -> bool:
    if event["item"] != said.id or event["by"] != said.by:
        return False
    if said.kind == "verdict":
        own = said.verdict or verdict_id(said.id, said.by, said.decision)
        return bool(event["decision"] == said.decision and event["verdict"] in (own, said.verdict))
    return event["step"] == "refused" or str(event["step"]).startswith(said.kind)


async def _send(
    connection: Connection, topic: str, value: bytes, signature: tuple[str, bytes] | None
) -> tuple[int, int]:
    """Where the record stands now: partition and offset."""
    headers = list(TYPED["verdict"])
    if signature is not None:
        headers += [(KEY, signature[0].encode()), (SIGNATURE, signature[1])]
    producer = AIOKafkaProducer(**connection.client_kwargs(), enable_idempotence=True)
    try:
        await producer.start()
        sent = await producer.send_and_wait(topic, value, headers=headers)
    except KafkaError as error:
        raise BrokerUnavailable(f"it was not said: {error!r}", "try again") from error
    finally:
        await producer.stop()
    return sent.partition, sent.offset


async def _letters_end(connection: Connection, topic: str) -> dict[int, int]:
    async with reading(connection, topic) as reader:
        return {partition: (await reader.kept(partition))[1] for partition in range(reader.partitions)}


async def _raise_if_refused(
    connection: Connection, topic: str, begins: dict[int, int], said: str, place: tuple[int, int]
) -> None:
    """Look for the dead letter of a record of topic ``said``, from where we have not looked yet."""
    wanted = said, str(place[0]), str(place[1])
    async with reading(connection, topic) as reader:
        for partition, begin in begins.items():
            _, end = await reader.kept(partition)
            async for records in reader.between(partition, begin, end):
                for record in records:
                    named = text_headers(record.headers)
                    if (named.get("sp-topic"), named.get("sp-partition"), named.get("sp-offset")) == wanted:
                        detail, reason = named.get("sp-detail", ""), named.get("sp-reason", "")
                        raise UserError(f"it did not count: {detail or reason}", HINTS.get(reason, ""))
            begins[partition] = end


HINTS = {
    "no_such_item": "`streamproc review FILE list` shows what is open",
    "unsigned": "this pipeline wants signatures: `--sign KEY.pem`",
    "bad_signature": "is it the private key whose public one stands under `review: {keys: …}`?",
    "unknown_key": "add the public key under `review: {keys: …}`",
    "signed_by_another": "sign with your own key",
}
"""What to do about a record that did not count, by the reason of its dead letter."""
