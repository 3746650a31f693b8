"""The intake: what people and other systems write, with whatever partitioner, is checked and put on its lane.

A record names a decision, whose id begins with the number of its lane; there it stands behind what it is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from streamproc.core.outbox import Outbox
from streamproc.core.outcomes import outcome as outcomes
from streamproc.core.processor import Batch, Effects, Headers, Seen, State, Steps
from streamproc.core.records import (
    CAME_FROM,
    SIGNED,
    VERSIONS,
    DeadLetter,
    RecordType,
    Source,
    Topics,
    headers_for,
    lane_of,
)
from streamproc.core.review import said as saying
from streamproc.core.signatures import Signatures

Read = TypeVar("Read")
KEY: Final = "sp-key"
SIGNATURE: Final = "sp-signature"
STAGE: Final = "intake"


class ActionResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of an action, as whoever carries it out says."""

    version: int = VERSIONS["action-result"]
    id: str
    revision: Annotated[int, msgspec.Meta(ge=0)] = 0
    status: Literal["done", "failed", "compensated"]
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    by: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    detail: Annotated[str, msgspec.Meta(max_length=1000)] | None = None


_results: msgspec.json.Decoder[ActionResult] = msgspec.json.Decoder(ActionResult)


def read_result(raw: bytes) -> ActionResult:
    """What a record's value says. Raises ValueError where it is nothing of the kind."""
    try:
        return _results.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error


class _Refused(Exception):
    """Why a record does not count."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.letter = DeadLetter(STAGE, reason, detail=detail)


@dataclass(frozen=True, slots=True)
class IntakeProcessor:
    """Takes verdicts, results of actions and outcomes for a pipeline of so many lanes."""

    pipeline: str
    lanes: int
    signatures: Signatures = field(default_factory=Signatures)

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        """Each record to its lane, or to the dead letters with the reason."""
        topics, out, counts = Topics.of(self.pipeline), Outbox(), dict[tuple[str, str], int]()
        for records in batch.topics.values():
            offsets, stamps = records.offsets.tolist(), records.timestamps.tolist()
            columns = zip(records.keys, records.values, records.headers, offsets, stamps, strict=True)
            for key, value, headers, offset, timestamp in columns:
                source = Source(records.topic, records.partition, offset, timestamp)
                try:
                    counted = self._take(topics, out, source, key, value or b"", headers)
                except _Refused as refused:
                    told = refused.letter.headers(self.pipeline, source, headers)
                    out.to_lane(topics.dead_letters, records.partition, key, value, told)
                    counted = "dead_letters", refused.letter.reason
                counts[counted] = counts.get(counted, 0) + 1
        return Effects(records=out.outputs(), counts=counts)
        yield []

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """Nothing happens by time alone."""
        return Effects()
        yield []

    def _take(
        self, topics: Topics, out: Outbox, source: Source, key: bytes | None, value: bytes, headers: Headers
    ) -> tuple[str, str]:
        """Pass a record on, and say what to count."""
        if source.topic == topics.verdicts:
            said = _read(saying.loads, value)
            named = dict(headers)
            signer = named.get(KEY)
            by_key = None if signer is None else signer.decode(errors="replace")
            signed = self.signatures.check(value, said.by, by_key, named.get(SIGNATURE))
            if isinstance(signed, str):
                raise _Refused(signed, f"what {said.by} says does not count: {signed.replace('_', ' ')}")
            lane = self._lane(saying.lane_of_item(said.id), said.id)
            told = (*_passed("verdict", source, headers), (SIGNED, b"%d" % signed))
            out.to_lane(topics.cases, lane, key, value, told)
            return "verdicts", said.kind
        if source.topic == topics.action_results:
            result = _read(read_result, value)
            self._lane(lane_of(result.id), result.id)
            return "action_results", result.status
        outcome = _read(outcomes.loads, value)
        told = _passed("outcome", source, headers)
        # Whose key it is only the lane of its decision knows.
        lanes = range(self.lanes) if outcome.id is None else (self._lane(lane_of(outcome.id), outcome.id),)
        for lane in lanes:
            out.to_lane(topics.outcomes_by_lane, lane, key, value, told)
        return "outcomes", "by_key" if outcome.id is None else "by_id"

    def _lane(self, lane: int | None, name: str) -> int:
        if lane is None or lane >= self.lanes:
            raise _Refused(
                "no_such_lane", f"{name[:60]} is no decision of this pipeline's, which has {self.lanes} lanes"
            )
        return lane


def _read(loads: Callable[[bytes], Read], value: bytes) -> Read:
    try:
        return loads(value)
    except ValueError as error:
        raise _Refused("malformed", str(error)) from error


def _passed(record: RecordType, source: Source, headers: Headers) -> Headers:
    return (*headers_for(record, headers), (CAME_FROM, source.text.encode()))
