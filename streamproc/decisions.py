"""Finding decisions, their events and their plans in Kafka."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from streamproc.artefacts import KIND, Kind
from streamproc.control import read_audit
from streamproc.core.control import NewLabels
from streamproc.core.intake import ActionResult, read_result
from streamproc.core.llm.policy import PROMPT_HASH
from streamproc.core.records import TYPE, Topics, lane_of
from streamproc.errors import UserError
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.reader import Progress, Start, reading

Matches = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Found:
    """A decision, and where its record stands."""

    decision: Mapping[str, Any]
    topic: str
    partition: int
    offset: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Event:
    """The event of a decision as the source topic has it, or why it cannot be shown."""

    value: bytes | None = None
    missing: str | None = None


async def find(
    connection: Connection,
    topic: str,
    decision_id: str,
    *,
    since: datetime | None,
    progress: Progress | None,
) -> list[Found]:
    """The decision with an id, and those that took its place, the first one first.

    Scans the partition that the id names; ``since`` narrows that. Raises UserError where there is none.
    """
    lane, needle, found = lane_of(decision_id), b'"id":' + orjson.dumps(decision_id), list[Found]()
    if lane is None:
        raise UserError(f"{decision_id} is no decision's id", "`streamproc decision search` finds ids")
    async with reading(connection, topic) as reader:
        only = [lane % reader.partitions]
        async for records in reader.scan(since or "beginning", only=only, progress=progress):
            for record in records:
                if record.value is not None and record.value.startswith(needle, 1):
                    found.append(_found(record))
    if not found:
        where = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
        raise UserError(
            f"no decision {decision_id} in {topic}{where}",
            "is it another pipeline's, or older than the retention? `streamproc decision search` finds ids",
        )
    return found


async def action_results(connection: Connection, pipeline: str, decision_id: str) -> list[ActionResult]:
    """What was reported back on the actions of a decision, oldest first."""
    topic, found = Topics.of(pipeline).action_results, list[ActionResult]()
    if topic not in await admin.describe(connection, [topic]):
        return found
    async with reading(connection, topic) as reader:
        async for records in reader.scan():
            for record in records:
                with suppress(ValueError):  # the intake makes dead letters of those
                    told = read_result(record.value or b"")
                    if told.id == decision_id:
                        found.append(told)
    return found


async def search(
    connection: Connection,
    topic: str,
    matches: Matches,
    start: Start,
    *,
    limit: int,
    key: str | None,
    progress: Progress | None,
) -> list[Found]:
    """The youngest ``limit`` decisions that match, oldest first. ``key`` is compared with the record's."""
    wanted = None if key is None else key.encode()
    newest: list[tuple[int, int, int, Found]] = []
    async with reading(connection, topic) as reader:
        async for records in reader.scan(start, progress=progress):
            for record in records:
                if record.value is None or (wanted is not None and record.key != wanted):
                    continue
                found = _found(record)
                if matches(found.decision):
                    entry = (record.timestamp, record.partition, record.offset, found)
                    (heapq.heappush if len(newest) < limit else heapq.heappushpop)(newest, entry)
    return [found for *_, found in sorted(newest, key=lambda entry: entry[:3])]


def _found(record: Any) -> Found:
    if dict(record.headers).get(TYPE) != b"decision":
        raise UserError(f"{record.topic} holds other records than decisions", "name the topic PIPELINE.decisions")
    return Found(orjson.loads(record.value), record.topic, record.partition, record.offset, record.timestamp)


async def event_of(connection: Connection, decision: Mapping[str, Any]) -> Event:
    """The event that was decided, from its source topic."""
    source = decision["source"]
    place = f"{source['topic']}-{source['partition']}@{source['offset']}"
    if source["topic"] not in await admin.describe(connection, [source["topic"]]):
        return Event(missing=f"topic {source['topic']} does not exist any more")
    async with reading(connection, source["topic"]) as reader:
        if source["partition"] >= reader.partitions:
            return Event(missing=f"{place}: the topic has only {reader.partitions} partitions now")
        low, end = await reader.kept(source["partition"])
        if source["offset"] < low:
            return Event(missing=f"{place} is gone: the topic's retention keeps {low} and later")
        if source["offset"] >= end:
            return Event(missing=f"{place} is not there: the topic ends at {end}, so it was made anew")
        record = await reader.one(source["partition"], source["offset"])
    if record is None or record.timestamp != source["timestamp"]:
        return Event(missing=f"{place} is another record now: the topic was made anew")
    return Event(record.value)


async def archived(connection: Connection, pipeline: str, plan_hash: str, folder: Path | None) -> bytes | None:
    """The archived plan of a hash, from the artefacts topic or a directory; ``None`` where there is none."""
    return (await kept(connection, pipeline, "plan", [plan_hash], folder)).get(plan_hash)


async def kept(
    connection: Connection, pipeline: str, kind: Kind, hashes: Collection[str], folder: Path | None
) -> dict[str, bytes]:
    """The artefacts of some hashes, from the artefacts topic or a directory, as far as they are there."""
    if folder is not None:
        paths = {one: folder / kind / Path(one).name for one in hashes}
        return {one: path.read_bytes() for one, path in paths.items() if path.is_file()}
    topic, found = Topics.of(pipeline).artefacts, dict[str, bytes]()
    if topic not in await admin.describe(connection, [topic]):
        return found
    async with reading(connection, topic) as reader:
        async for records in reader.scan():
            for record in records:
                own = (record.key or b"").decode(errors="replace")
                if own in hashes and record.value is not None and dict(record.headers).get(KIND) == kind.encode():
                    found[own] = record.value
    return found


async def prompts_of(
    connection: Connection, pipeline: str, decision: Mapping[str, Any], folder: Path | None
) -> dict[str, str | None]:
    """The files of the prompts that a decision names, by their hashes: from the artefacts, or from what people said.

    A text that is not that of its hash is none of them, wherever it stands.
    """
    named = {name: value for name, value in decision["features"].items() if name.endswith(f"_{PROMPT_HASH}")}
    hashes = [value for value in named.values() if isinstance(value, str)]
    if not hashes:
        return {}
    files = await kept(connection, pipeline, "prompt", hashes, folder)
    found: dict[str, str | None] = {one: _text_of(one, files.get(one)) for one in hashes}
    audit = Topics.of(pipeline).audit
    if None in found.values() and audit in await admin.describe(connection, [audit]):
        async for _, said in read_audit(connection, pipeline):
            if isinstance(said, NewLabels):
                for one in filter(None, (said.production, said.canary)):
                    if found.get(one.hash, "") is None:
                        found[one.hash] = _text_of(one.hash, one.text.encode(errors="replace"))
    return found


def _text_of(sha256: str, raw: bytes | None) -> str | None:
    """The text of a file, where it is the one of this hash."""
    is_it = raw is not None and hashlib.sha256(raw).hexdigest() == sha256
    return raw.decode(errors="replace") if raw is not None and is_it else None
