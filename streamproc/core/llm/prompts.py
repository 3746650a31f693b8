"""Which version of a prompt an event is given: the labels of the prompt, and a hash of the event's key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from streamproc.core.llm.prompt import Prompt

PROMPTS: Final = "prompts"
"""The name in ``Seen`` of the prompts that people said are to be used, by the names of the prompts."""
MILLION: Final = 1_000_000
_PLACES: Final = 1 << 64
HASH_SHOWN: Final = 16
"""So many hex digits of a prompt's hash stand in the version of what answered."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The versions of a prompt that are in use: ``share`` millionths of all keys are given the ``canary``.

    ``registered`` has the SHA-256 of each version that its files register, in use or not.
    """

    production: Prompt
    canary: Prompt | None = None
    share: int = 0
    registered: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        return self.production.name

    @property
    def versions(self) -> tuple[Prompt, ...]:
        """The production version, and the canary where there is one."""
        return (self.production,) if self.canary is None else (self.production, self.canary)

    def of(self, keys: Sequence[bytes]) -> list[Prompt]:
        """The version for each key. It is the same for the same key and share; of a larger share a key that was given
        the canary is given it too. Which keys these are differs from prompt to prompt."""
        if self.canary is None:
            return [self.production] * len(keys)
        limit = self.share * _PLACES
        salt = self.name.encode()[:64]
        return [self.canary if _place(key, salt) * MILLION < limit else self.production for key in keys]


def _place(key: bytes, salt: bytes) -> int:
    """A number below ``_PLACES`` that follows from the key, and spreads evenly."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, key=salt).digest())


def with_prompt(version: str, prompt_hash: str) -> str:
    """The version of what answered, with the prompt that it was given; of nothing there is none.

    >>> with_prompt("9d1c@gpt-1", "ab" * 32), with_prompt("9d1c", "ab" * 32), with_prompt("", "ab" * 32)
    ('9d1c+abababababababab@gpt-1', '9d1c+abababababababab', '')
    """
    own, at, server = version.partition("@")
    return f"{own}+{prompt_hash[:HASH_SHOWN]}{at}{server}" if own else version


def without_prompt(version: str) -> str:
    """The version of what answered, whatever prompt it was given.

    >>> without_prompt("9d1c+abababababababab@gpt-1"), without_prompt("9d1c@2"), without_prompt("9d1c")
    ('9d1c@gpt-1', '9d1c@2', '9d1c')
    """
    own, at, server = version.partition("@")
    return own.partition("+")[0] + at + server
