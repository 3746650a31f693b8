"""Dead letters back to the events topic, each once.

A redrive writes the events and one *note* for each of them (on ``<pipeline>.redriven``, keyed by the dead
letter's place) in one transaction: there is no event without its note and no note without its event. What has
a note is left out the next time. Notes are read after the producer has started under the pipeline's one
transactional id for redrives, which ends the transaction of any other redrive: of two at the same time, one
is fenced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from streamproc.core.records import REDRIVEN_FROM, TYPE, VERSION
from streamproc.dead_letters import Letter
from streamproc.errors import BrokerUnavailable, UserError, causes
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import reading
from streamproc.topics import LARGE_BYTES, TopicRole
from streamproc.wording import counted

NOTE: Final = ((TYPE, b"redrive"), (VERSION, b"1"))
CHUNK_RECORDS = 500
CHUNK_BYTES = 16 << 20

Notes = Mapping[str, int]
"""When each dead letter was written (ms), by its place: a topic made anew has others at the same places."""


@dataclass(frozen=True, slots=True)
class Redrive:
    """A dead letter with its event's raw bytes."""

    letter: Letter
    raw: bytes | None


def place(letter: Letter) -> str:
    """``topic-partition-offset``, as it stands in the header of the redriven event."""
    return f"{letter.topic}-{letter.id}"


def is_noted(letter: Letter, notes: Notes) -> bool:
    """Whether a dead letter was redriven already."""
    return notes.get(place(letter)) == letter.written


async def read_notes(connection: Connection, topic: str) -> dict[str, int]:
    """What was redriven so far."""
    notes: dict[str, int] = {}
    if topic not in await admin.describe(connection, [topic]):
        return notes
    async with reading(connection, topic) as reader:
        async for records in reader.scan():
            for record in records:
                if record.value is not None:
                    notes[record.key.decode()] = orjson.loads(record.value)["written"]
    return notes


TAKEN_OVER = (
    kafka_errors.ProducerFenced,
    kafka_errors.InvalidProducerEpoch,
    kafka_errors.InvalidTxnState,
    kafka_errors.InvalidProducerIdMapping,
    # A producer that learns of it in the background has no transaction any more, and says only that.
    kafka_errors.IllegalOperation,
)


async def redrive(
    connection: Connection,
    events: str,
    noted: TopicRole,
    pipeline: str,
    items: Sequence[Redrive],
    *,
    again: bool,
) -> int:
    """Send the events, each with a note, and return how many were sent.

    Each goes to the partition that it came from, with its own key and timestamp. Those that somebody else has
    redriven meanwhile are left out, unless ``again``. An interrupted redrive has sent a part, with notes; run
    it again.
    """
    await admin.create(connection, [noted.spec])
    infos = await admin.describe(connection, [events])
    if events not in infos:
        raise UserError(f"the events topic {events} does not exist", "its producers own it")
    producer = AIOKafkaProducer(
        **connection.client_kwargs(),
        transactional_id=f"{pipeline}-redrive",
        max_request_size=LARGE_BYTES,
        max_batch_size=LARGE_BYTES,
        linger_ms=5,
    )
    sent = 0
    try:
        await producer.start()
        notes = {} if again else await read_notes(connection, noted.spec.name)
        left = [item for item in items if not is_noted(item.letter, notes)]
        for chunk in _chunks(left):
            async with producer.transaction():
                futures = [
                    future
                    for item in chunk
                    for future in await _send(producer, events, infos[events].partitions, noted.spec.name, item)
                ]
                await asyncio.gather(*futures)  # a record that was refused must abort the transaction
            sent += len(chunk)
    except kafka_errors.MessageSizeTooLargeError as error:
        raise UserError(
            f"an event is larger than topic {events} takes; {sent} sent before it",
            "raise its max.message.bytes",
        ) from error
    except (kafka_errors.KafkaError, kafka_errors.IllegalOperation) as error:
        done = counted(sent, "event")
        if any(isinstance(cause, TAKEN_OVER) for cause in causes(error)):
            raise UserError(f"another redrive of {pipeline} took over after {done}", "run it again") from error
        raise BrokerUnavailable(f"the redrive failed after {done}: {error!r}", "run it again") from error
    finally:
        await producer.stop()
    return sent


async def _send(producer: Any, events: str, partitions: int, notes: str, item: Redrive) -> list[Any]:
    letter = item.letter
    assert letter.source is not None
    same = letter.source.topic == events and letter.source.partition < partitions
    headers = [*letter.passed, (REDRIVEN_FROM, place(letter).encode())]
    event = await producer.send(
        events,
        item.raw,
        key=letter.key,
        partition=letter.source.partition if same else None,
        timestamp_ms=letter.source.timestamp,
        headers=headers,
    )
    note = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "written": letter.written,
        "to": events,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    key = place(letter).encode()
    return [event, await producer.send(notes, orjson.dumps(note), key=key, headers=list(NOTE))]


def _chunks(items: Sequence[Redrive]) -> list[list[Redrive]]:
    chunks: list[list[Redrive]] = []
    size = 0
    for item in items:
        weight = len(item.raw or b"")
        if not chunks or len(chunks[-1]) >= CHUNK_RECORDS or size + weight > CHUNK_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(item)
        size += weight
    return chunks
