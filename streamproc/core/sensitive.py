"""Fields that leave the process only as keyed hashes, and dead letters that do not carry them in clear."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

HASH_BYTES = 16
PREFIX = "hash:"


@dataclass(frozen=True, slots=True, repr=False)
class Masker:
    """Replaces values by keyed hashes: equal values stay equal, and nobody without the key can tell which.

    ``key`` is 16 to 64 bytes. ``seal`` encrypts a dead letter's body, where that is configured.
    """

    key: bytes
    seal: Callable[[bytes], bytes] | None = None

    def hash(self, value: Any) -> str | None:
        """``hash:`` and blake2b of the value's JSON under the key; a null stays null."""
        if value is None:
            return None
        digest = hashlib.blake2b(orjson.dumps(value), digest_size=HASH_BYTES, key=self.key)
        return PREFIX + digest.hexdigest()

    def event(self, event: Any, fields: Sequence[Sequence[str]]) -> Any:
        """A copy of the event with these fields (paths) hashed."""
        for path in fields:
            event = self._at(event, path)
        return event

    def _at(self, event: Any, path: Sequence[str]) -> Any:
        if not isinstance(event, dict) or path[0] not in event:
            return event
        inner = event[path[0]]
        masked = self.hash(inner) if len(path) == 1 else self._at(inner, path[1:])
        return {**event, path[0]: masked}

    def body(self, body: bytes | None, *, encrypt: bool) -> bytes | None:
        """A dead letter's body as it may leave: sealed, or only its keyed hash and size."""
        if body is None:
            return None
        if encrypt:
            if self.seal is None:
                raise ValueError("encrypted dead letters need a sealing function")
            return self.seal(body)
        digest = hashlib.blake2b(body, digest_size=HASH_BYTES, key=self.key).hexdigest()
        return orjson.dumps({"masked": PREFIX + digest, "size": len(body)})
