"""Whether answers to like texts may be served: what is known of how often they are wrong."""

from __future__ import annotations

import hashlib
from collections import deque

from streamproc.core.llm.cache import Said
from streamproc.core.llm.cache_policy import VERIFIED_LAST, SemanticPolicy
from streamproc.core.outcomes.intervals import wilson

_DRAWN = 1 << 64


class Trust:
    """Of one prompt and model. Answers are served while the last that were compared with real ones are enough, and the
    upper end of the 95 % interval of the share that was wrong is not above the limit (Wilson 1927). Else they are not,
    and are compared all the same, so that it may become so again."""

    def __init__(self, policy: SemanticPolicy) -> None:
        self._policy = policy
        self._right = deque[bool](maxlen=VERIFIED_LAST)

    @property
    def verified(self) -> int:
        """Of the last, how many were compared."""
        return len(self._right)

    @property
    def wrong(self) -> int:
        """How many of them were wrong."""
        return self._right.count(False)

    @property
    def at_most(self) -> float:
        """The upper end of the interval of the share that is wrong; 1 while nothing is known."""
        high = wilson(self.wrong, self.verified).high
        return 1.0 if high is None else high

    @property
    def serves(self) -> bool:
        return self.verified >= self._policy.fewest and self.at_most <= self._policy.limit

    def verifies(self, decision_id: str) -> bool:
        """Whether this event's answer is compared with a real one: always, until enough were; then by its id."""
        return self.verified < self._policy.fewest or _drawn(decision_id) < self._policy.verify

    def told(self, right: bool) -> None:
        """One was compared."""
        self._right.append(right)


def agree(policy: SemanticPolicy, kept: Said, fresh: Said) -> bool:
    """Whether what was kept would have done: all fields that have one of a few values are the same, and the scores
    differ by the tolerance at most."""
    return dict(kept.bounded) == dict(fresh.bounded) and abs(kept.score - fresh.score) <= policy.tolerance + 1e-12


def _drawn(decision_id: str) -> float:
    """A number from 0 to 1 that follows from an id, and from nothing else that is decided by it."""
    raw = hashlib.blake2b(decision_id.encode(), person=b"llm-verify", digest_size=8).digest()
    return int.from_bytes(raw, "big") / _DRAWN
