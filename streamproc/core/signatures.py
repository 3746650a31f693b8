"""Whose word counts: what people say can be signed, because nobody can see who produced a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Verify: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""Whether a signature (in base64) is that of some bytes under a public key: key, bytes, signature."""
Unsound: TypeAlias = Literal["unsigned", "unknown_key", "signed_by_another", "bad_signature"]


@dataclass(frozen=True, slots=True)
class Signatures:
    """``keys`` are ed25519 public keys by the names of people. Without ``required`` an unsigned word counts too."""

    keys: Mapping[str, bytes] = field(default_factory=dict)
    required: bool = False
    verify: Verify | None = None

    def check(self, value: bytes, by: str, key: str | None, signature: bytes | None) -> bool | Unsound:
        """Whether ``value`` is signed by whoever says it, or why it does not count. ``key`` is the name of the key."""
        if signature is None:
            return "unsigned" if self.required else False
        known = self.keys.get(key or "")
        if known is None:
            return "unknown_key"
        if key != by:
            return "signed_by_another"
        assert self.verify is not None
        return self.verify(known, value, signature) or "bad_signature"
