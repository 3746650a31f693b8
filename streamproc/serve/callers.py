"""Who calls: API keys by their hashes, what each may do, and how much."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from streamproc.core.llm.rates import Bucket, Rate
from streamproc.core.review.policy import Allowance
from streamproc.errors import UserError

VARIABLE: Final = "STREAMPROC_SERVE_KEYS"
Scope: TypeAlias = Literal["events", "decisions", "verdicts", "outcomes", "metrics"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
HOW: Final = "a line is NAME, the key's SHA-256 in hex, and what it may do: " + ",".join(SCOPES) + " (all by default)"
MOST_CALLERS: Final = 10_000
MICROSECOND: Final = timedelta(microseconds=1)
_LINE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})\s+([0-9a-f]{64})(?:\s+([a-z,]+))?")


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls, by name."""

    name: str
    scopes: frozenset[str] = frozenset(SCOPES)


ANYBODY: Final = Caller("anybody")
"""Where there are no keys."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """API keys by their hashes. Without any, everybody may do everything."""

    known: Sequence[tuple[bytes, Caller]] = ()

    def caller(self, key: str | None) -> Caller | None:
        """Whose key it is. Every hash is compared, each in constant time."""
        if not self.known:
            return ANYBODY
        own, found = hashlib.sha256((key or "").encode(errors="surrogateescape")).digest(), None
        for digest, caller in self.known:
            if hmac.compare_digest(digest, own):
                found = caller
        return None if key is None else found


def read_keys(file: Path | None, environ: Mapping[str, str]) -> Keys:
    """The keys of a file, or else of the environment. Raises UserError where a line is none."""
    try:
        text = environ.get(VARIABLE, "") if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the keys in {file} cannot be read: {error}", HOW) from error
    where = VARIABLE if file is None else str(file)
    found = list[tuple[bytes, Caller]]()
    for number, line in enumerate(re.split(r"[\n;]", text), 1):
        if not (line := line.partition("#")[0].strip()):
            continue
        match = _LINE.fullmatch(line)
        scopes = frozenset(match[3].split(",")) if match and match[3] else frozenset(SCOPES)
        if match is None or not scopes <= frozenset(SCOPES):
            raise UserError(f"line {number} of {where} is no key", HOW)  # the line itself may be a key in clear
        found.append((bytes.fromhex(match[2]), Caller(match[1], scopes)))
    if file is not None and not found:
        raise UserError(f"there is no key in {file}", HOW)
    return Keys(found)


class Rates:
    """How much of its allowance each caller has left. Time is in µs, and given."""

    def __init__(self, allowance: Allowance | None) -> None:
        self._rate = None if allowance is None else Rate(allowance.count, allowance.period // MICROSECOND)
        self._full: dict[str, int] = {}

    def take(self, caller: Caller, count: int, now: int) -> int:
        """Take so many events of a caller's, or say in how many µs it may try again.

        More than the allowance is taken where nothing of it is gone, and what comes then waits for all of that.
        """
        if self._rate is None:
            return 0
        bucket = Bucket(self._rate.interval, self._rate.tolerance)
        full, each = max(now, self._full.get(caller.name, 0)), bucket.interval
        if wait := bucket.wait(full + (min(count, self._rate.requests) - 1) * each, now):
            return wait
        self._full[caller.name] = bucket.taken(full + (count - 1) * each, now)
        if len(self._full) > MOST_CALLERS:
            del self._full[next(iter(self._full))]
        return 0
