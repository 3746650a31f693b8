"""What the rules made of an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

MOST_KNOWN = 20_000
"""So many verdicts, by what led to them, are remembered."""

Why: TypeAlias = Literal[
    "rule",
    "low_confidence",
    "undecided",
    "no_score",
    "no_rule",
    "stale",
    "mode_fallback",
    "mode_review_all",
    "explored",
]


@dataclass(frozen=True, slots=True)
class Drifted:
    """What drift did to a decision: at most one of the two, and nothing where both would be the same.

    ``without`` is what would have been decided if nothing drifted. ``capped`` is what drift would have decided, had it
    not changed as much already as it may: such a decision is the one that is made where nothing drifts.
    """

    without: str | None = None
    capped: str | None = None


@dataclass(frozen=True, slots=True)
class Explored:
    """That a decision is an experiment: what the rules had decided, and the chance with which an event is chosen."""

    instead_of: str
    share: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules make of one combination of outcomes.

    ``why`` says what led here, ``rule`` is the rule that decided. ``would_be`` is what automation alone would have
    decided: the first matching rule that does not ask for review, or for the fallback chain. ``drifted`` is there where
    the plan caps drift. ``fallback_reason`` says why anything else than the first model and the rules was needed,
    ``scored_by`` which model's score was used.
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
    drifted: Drifted | None = None
    fallback_reason: str | None = None
    scored_by: str | None = None
    explored: Explored | None = None

    @property
    def is_alone(self) -> bool:
        """Whether automation decided without anybody."""
        return self.decision != "review" and self.tier.startswith(("automatic", "stand-in:"))


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts of a batch: ``distinct`` ones, and per row the number of its own, shape (n,)."""

    distinct: Sequence[Verdict]
    of_row: NDArray[np.int64]
