"""The control topic of a pipeline: saying something on it, and what was said last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from streamproc.baselines import kept_or_learned
from streamproc.core.control import Control, NewLabels, NewNormal, Said, dumps, loads, signable
from streamproc.core.drift.baseline import Baseline
from streamproc.core.drift.baseline import loads as load_baseline
from streamproc.core.drift.panes import read as read_panes
from streamproc.core.plan import Plan
from streamproc.core.records import TYPED, Topics
from streamproc.core.signatures import Signatures, Unsound
from streamproc.errors import BrokerUnavailable, UserError, causes
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import reading
from streamproc.labels import Labels
from streamproc.pipeline import Pipeline, signatures_of
from streamproc.redrive import TAKEN_OVER
from streamproc.rows import Told
from streamproc.topics import LARGE_BYTES

LOOKED_AT = 100
"""So many offsets at the end of a topic hold a record, and not only marks of transactions."""

log = logging.getLogger(__name__)


def control_of(values: Mapping[bytes, bytes], pipeline: str) -> Control:
    """What holds for a pipeline, from the newest value of each key; what cannot be read is left out, and told.

    A record under another key than its own would never be replaced by a newer one, so it does not count either.
    """
    said = list[Said]()
    for key, value in values.items():
        try:
            record = loads(value)
            if (record.key, record.pipeline) != (key, pipeline):
                raise ValueError("it is of another pipeline, or under another key than its own")
            said.append(record)
        except ValueError as error:
            log.warning("a record on the control topic is left out: %s", error)
    return Control.of(said)


async def read_control(connection: Connection, pipeline: str) -> Control:
    """What holds now."""
    return control_of(await newest_values(connection, Topics.of(pipeline).control), pipeline)


async def newest_values(connection: Connection, topic: str) -> dict[bytes, bytes]:
    """The newest value of each key of a compacted topic, without the keys that were deleted."""
    values = dict[bytes, bytes]()
    async with reading(connection, topic) as reader:
        async for records in reader.scan():
            for record in records:
                if record.value is None:
                    values.pop(record.key, None)
                else:
                    values[record.key] = record.value
    return values


async def current_baseline(connection: Connection, pipeline: Pipeline, told: Told | None = None) -> Baseline | None:
    """The baseline that workers judge by: said on the control topic, kept beside the file, or learned from that."""
    said = said_baseline(await read_control(connection, pipeline.plan.pipeline), pipeline.plan)
    return said or await asyncio.to_thread(kept_or_learned, pipeline, told)


def said_baseline(control: Control, plan: Plan) -> Baseline | None:
    """The baseline that was said to be normal for a plan. Raises UserError where it cannot be read."""
    try:
        return control.baseline(plan.hash, plan.model_version)
    except ValueError as error:
        raise UserError(f"the baseline on topic {plan.topics.control} cannot be used: {error}") from error


async def counted_by(connection: Connection, panes: str) -> str | None:
    """The hash of the baseline by which workers count, as the newest record of panes says; ``None`` without any."""

    def baseline(value: bytes) -> str | None:
        try:
            return read_panes(value).baseline
        except ValueError:  # none of ours: the drift agent counts it
            return None

    return await _newest(connection, panes, baseline)


async def said_so_far(connection: Connection, plan: Plan) -> dict[str, tuple[int, bytes]]:
    """Every baseline that was ever said to be normal for a plan: its place in the order in which they were said, and
    its JSON, by its hash."""
    found = dict[str, tuple[int, bytes]]()
    async for offset, said in read_audit(connection, plan.pipeline):
        if isinstance(said, NewNormal) and (said.plan, said.model) == (plan.hash, plan.model_version):
            raw = bytes(said.baseline)
            try:
                found[load_baseline(raw).hash] = offset, raw
            except ValueError as error:
                log.warning("a baseline on the audit topic is left out: %s", error)
    return found


async def read_audit(connection: Connection, pipeline: str) -> AsyncIterator[tuple[int, Said]]:
    """All that was ever said, in its order, with its offset; what cannot be read is left out, and told."""
    async with reading(connection, Topics.of(pipeline).audit) as reader:
        async for records in reader.scan():
            for record in records:
                try:
                    said = loads(record.value or b"")
                except ValueError as error:
                    log.warning("a record on the audit topic is left out: %s", error)
                    continue
                yield record.offset, said


async def recall(connection: Connection, plan: Plan, labels: Labels) -> None:
    """Where the newest labels of a prompt do not count, let the last ones on the audit topic that do count hold.

    Compaction leaves but the newest record of a key: without this, one that does not count would change what a worker
    uses that starts after it.
    """
    if not labels.lost or plan.topics.audit not in await admin.describe(connection, [plan.topics.audit]):
        return
    said = [one async for _, one in read_audit(connection, plan.pipeline)]
    labels.recall(one for one in said if isinstance(one, NewLabels) and one.pipeline == plan.pipeline)


async def running_labels(connection: Connection, plan: Plan) -> Labels:
    """What of the labels that were said counts for a worker that starts now, with the files of this plan."""
    signatures = signatures_of(plan)
    labels = Labels(plan, signatures.required, lambda said: isinstance(soundness(signatures, said), bool))
    values = await newest_values(connection, plan.topics.control)
    labels.hear(control_of(values, plan.pipeline).labels, values)
    await recall(connection, plan, labels)
    return labels


def soundness(signatures: Signatures, said: Said) -> bool | Unsound:
    """Whether a record is signed, or why it does not count."""
    signature = None if said.signature is None else said.signature.encode()
    return signatures.check(signable(said), said.by, said.by, signature)


async def running_plan(connection: Connection, decisions: str) -> str | None:
    """The hash of the plan that decided last; ``None`` where nothing was decided.

    What people decide names the plan that asked them, perhaps long ago.
    """

    def plan(value: bytes) -> str | None:
        decision = orjson.loads(value)
        return None if "revision" in decision else str(decision["plan"])

    return await _newest(connection, decisions, plan)


async def _newest(connection: Connection, topic: str, read: Callable[[bytes], str | None]) -> str | None:
    """What ``read`` finds in the newest record of a topic, by its time, in which it finds anything."""
    newest: tuple[int, str] | None = None
    async with reading(connection, topic) as reader:
        for partition in range(reader.partitions):
            start, end = await reader.kept(partition)
            async for records in reader.between(partition, max(start, end - LOOKED_AT), end):
                for record in records:
                    if (said := read(record.value or b"")) is not None:
                        found = record.timestamp, said
                        newest = found if newest is None else max(newest, found)
    return None if newest is None else newest[1]


async def say(connection: Connection, record: Said) -> None:
    """Put a record on the control topic and on the audit topic, on both or on neither.

    Raises UserError where it is too large, or somebody else is saying something at the same time.
    """
    topics, value = Topics.of(record.pipeline), dumps(record)
    if len(value) > LARGE_BYTES - 1024:
        raise UserError(
            f"a control record of {len(value):,} bytes is more than topic {topics.control} takes",
            "watch fewer columns, or within fewer segments",
        )
    producer = AIOKafkaProducer(
        **connection.client_kwargs(),
        transactional_id=f"{record.pipeline}-control",
        max_request_size=LARGE_BYTES,
        max_batch_size=LARGE_BYTES,
    )
    try:
        await producer.start()
        async with producer.transaction():
            sent = [
                await producer.send(topic, value, key=record.key, headers=list(TYPED["control"]))
                for topic in (topics.control, topics.audit)
            ]
            await asyncio.gather(*sent)  # a record that was refused must abort the transaction
    except (kafka_errors.KafkaError, kafka_errors.IllegalOperation) as error:
        if any(isinstance(cause, TAKEN_OVER) for cause in causes(error)):
            raise UserError(f"somebody else is controlling {record.pipeline} at this moment", "try again") from error
        raise BrokerUnavailable(f"the control record was not written: {error!r}", "try again") from error
    finally:
        await producer.stop()
