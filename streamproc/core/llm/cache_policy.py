"""What a pipeline file says of answers that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EXACT: Final = "exact"
SEMANTIC: Final = "semantic"
CACHE: Final = "cache"
"""The column that says by which of the two a row was answered."""
CHECK: Final = "cache_check"
"""The column that says whether what was kept for a like text was ``right`` or ``wrong``, of rows that were asked about
to find out."""
RIGHT: Final = "right"
WRONG: Final = "wrong"
VERIFIED_LAST: Final = 1_000
"""So many of the last verified hits count."""


@dataclass(frozen=True, slots=True)
class SemanticPolicy:
    """Texts count as alike from a cosine similarity of ``threshold`` on. The share ``verify`` of what they would be
    answered with is compared with a real answer; of that at most the share ``limit`` may be wrong, at 95 % confidence,
    and nothing is served before ``fewest`` were compared. Two scores agree that differ by ``tolerance`` at most.
    ``most`` texts are held for one tenant and prompt."""

    threshold: float = 0.95
    verify: float = 0.05
    limit: float = 0.05
    fewest: int = 100
    tolerance: float = 0.1
    most: int = 2_000
    wait: float = 0.05
    """Seconds that a row waits for its vector at most."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Answers are kept for ``seconds``, in memory at most ``most`` of them and ``most_bytes`` bytes. One of less than
    ``least_confidence`` is not. Events that differ in the column ``by`` have nothing in common."""

    seconds: float
    by: str | None = None
    most: int = 100_000
    most_bytes: int = 64 << 20
    least_confidence: float = 0.5
    semantic: SemanticPolicy | None = None
