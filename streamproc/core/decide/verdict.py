"""What the rules made of an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

MOST_KNOWN = 20_000
"""So many verdicts, by what led to them, are remembered."""

Why: TypeAlias = Literal["rule", "undecided", "no_score", "no_rule", "stale"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules make of one combination of outcomes.

    ``why`` says what led here, ``rule`` is the rule that decided. ``would_be`` is what automation alone would have
    decided: the first matching rule that does not ask for review.
    """

    decision: str
    tier: str
    why: Why
    rule: str | None
    would_be: str | None
    rules: tuple[str, ...]
    reasons: tuple[str, ...]
    observed: tuple[str, ...]
    undecided: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts of a batch: ``distinct`` ones, and per row the number of its own, shape (n,)."""

    distinct: Sequence[Verdict]
    of_row: NDArray[np.int64]
