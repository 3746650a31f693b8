"""An event as it came, checked at the door: with its key, its id, and the partition that both belong in."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from streamproc.core.partitioner import partitions
from streamproc.core.plan import Plan
from streamproc.core.processor import Headers
from streamproc.core.records import EVENT, TRACEPARENT, TRACESTATE, DeadLetter
from streamproc.core.repartition import at_path, key_text
from streamproc.core.sensitive import Masker
from streamproc.rows import field_of

DIGEST_BYTES: Final = 16
IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?", re.ASCII)
"""Up to 200 printable characters."""
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_TRACESTATE: Final = re.compile(r"[\x20-\x7e]{1,512}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Incoming:
    """An event that the contract takes.

    ``digest`` stands in a header of its record and of what is made of it. ``repeatable``: whoever sends it again sends
    the same id, so an answer that is known already is its answer too.
    """

    value: bytes
    key: bytes | None
    id: str
    digest: str
    repeatable: bool


class Checker:
    """Checks events against a plan's contract, and says whose they are."""

    def __init__(self, plan: Plan, masker: Masker | None) -> None:
        self._contract, self._key = plan.contract, plan.events.key
        self._id = next((field.path for field in plan.contract.fields if field.name == plan.events.id), None)
        whose = blake2b(plan.pipeline.encode(), digest_size=blake2b.PERSON_SIZE).digest()
        key = masker.key if masker is not None and plan.events.id in plan.events.sensitive else b""
        self._digest = blake2b(digest_size=DIGEST_BYTES, person=whose, key=key).copy

    def check(self, value: bytes, caller: str, idempotency_key: str | None) -> Incoming | DeadLetter:
        """The event, or why it is none. Its own id goes before the caller's, and without either it has one of ours."""
        event = self._contract.check(value)
        if type(event) is DeadLetter:
            return event
        key = None if self._key is None else key_text(field_of(event, self._key))
        own = None if self._id is None else key_text(at_path(event, self._id))
        if own is not None:
            return Incoming(value, key, own.decode(), self.of_own(own), repeatable=True)
        if idempotency_key is not None:
            digest = self.of_key(caller, idempotency_key)
            return Incoming(value, key, idempotency_key, digest, repeatable=True)
        made = uuid.uuid4().hex
        return Incoming(value, key, made, self.of_key(caller, made), repeatable=False)

    def of_own(self, own: bytes) -> str:
        """The digest of an id that stands in the event: it is the pipeline's, whoever sends it."""
        return self._digested(b"own\0" + own)

    def of_key(self, caller: str, key: str) -> str:
        """The digest of an id that a caller gave in a header: another caller's is another."""
        return self._digested(f"key\0{caller}\0{key}".encode())

    def _digested(self, text: bytes) -> str:
        digest = self._digest()
        digest.update(text)
        return digest.hexdigest()


def partitions_of(events: Sequence[Incoming], count: int) -> list[int]:
    """Where events belong among so many partitions, shape (n,): where Java's clients put their keys.

    One without a key goes where its id says, as its repetition must come to the same lane; or else anywhere.
    """
    keys = [event.digest.encode() if event.key is None and event.repeatable else event.key for event in events]
    anywhere = np.array([random.randrange(count) for _ in events]) if None in keys else 0  # noqa: S311 - no secret
    return partitions(keys, count, anywhere).tolist()  # type: ignore[no-any-return]


def trace_headers(given: Mapping[str, str]) -> Headers:
    """The W3C trace context of a request as headers of its records; what is malformed is left out."""
    parent, state = given.get(TRACEPARENT, ""), given.get(TRACESTATE, "")
    if _TRACEPARENT.fullmatch(parent) is None:
        return ()
    traced = ((TRACEPARENT, parent.encode()),)
    return (*traced, (TRACESTATE, state.encode())) if _TRACESTATE.fullmatch(state) else traced


def headers_of(event: Incoming, traced: Headers) -> Headers:
    """The headers of an event's record."""
    return (*traced, (EVENT, event.digest.encode()))


def told(letter: DeadLetter, line: int | None = None) -> dict[str, Any]:
    """Why an event was refused, without its values."""
    numbered = {} if line is None else {"line": line}
    path = letter.path or ("$" if letter.stage == "contract" else "")
    return {**numbered, "path": path, "reason": letter.reason, "detail": letter.detail}
