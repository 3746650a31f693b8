"""An event as it came, checked at the door: with its key, its id, and the partition that both belong in."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np

from streamproc.core.partitioner import partitions
from streamproc.core.plan import Plan
from streamproc.core.processor import Headers
from streamproc.core.records import EVENT, TRACEPARENT, TRACESTATE, DeadLetter
from streamproc.core.repartition import key_text
from streamproc.core.sensitive import Masker

DIGEST_BYTES: Final = 16
MADE_BYTES: Final = 16
IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?", re.ASCII)
"""Up to 200 printable characters."""
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_TRACESTATE: Final = re.compile(r"[\x20-\x7e]{1,512}", re.ASCII)


class Incoming(NamedTuple):
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
        self._contract = plan.contract
        paths = {field.name: field.path for field in plan.contract.fields}
        self._key, self._id = (None if name is None else paths[name] for name in (plan.events.key, plan.events.id))
        self._wanted = [path for path in (self._key, self._id) if path is not None]
        whose = blake2b(plan.pipeline.encode(), digest_size=blake2b.PERSON_SIZE).digest()
        key = masker.key if masker is not None and plan.events.id in plan.events.sensitive else b""
        self._digest = blake2b(digest_size=DIGEST_BYTES, person=whose, key=key).copy

    def check(
        self, values: Sequence[bytes], caller: str, idempotency_keys: Sequence[str | None]
    ) -> list[Incoming | DeadLetter]:
        """The events, or why they are none. An event's own id goes before the caller's, and without either it has one
        of ours."""
        numbers, picked, refused = self._contract.pick(values, self._wanted)
        found: list[Incoming | DeadLetter | None] = [refused.get(number) for number in range(len(values))]
        texts = [[key_text(value) for value in several] for several in picked]
        nothing: list[bytes | None] = [None] * len(numbers)
        keys = nothing if self._key is None else texts[0]
        owns = nothing if self._id is None else texts[-1]
        made = os.urandom(MADE_BYTES * len(numbers)).hex()
        for row, (number, key, own) in enumerate(zip(numbers, keys, owns, strict=True)):
            value, given = values[number], idempotency_keys[number]
            if own is not None:
                found[number] = Incoming(value, key, own.decode(), self.of_own(own), repeatable=True)
            elif given is not None:
                found[number] = Incoming(value, key, given, self.of_key(caller, given), repeatable=True)
            else:
                ours = made[2 * MADE_BYTES * row : 2 * MADE_BYTES * (row + 1)]
                found[number] = Incoming(value, key, ours, self.of_key(caller, ours), repeatable=False)
        return found  # type: ignore[return-value]

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
