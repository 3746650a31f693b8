"""What a pipeline says about outcomes: what can come true, when that is an error, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import polars as pl

from streamproc.core.expressions import Expression

WOULD_BE: Final = "would_be"
"""As the baseline's decision: what automation alone would have decided."""
AMOUNT: Final = "outcome_amount"
"""The column of cost expressions that is the outcome's; null while there is none."""
MOST_KEPT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class BaselinePlan:
    """What the pipeline is compared with: a policy that decides everything alike, or what was measured of another
    process. Rates are shares, ``cost`` is per event."""

    name: str
    decision: str | None = None
    automation: float | None = None
    review: float | None = None
    errors: float | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class OutcomesPlan:
    """``errors`` are the values that say of a decision that it was wrong, ``costs`` the expressions by decision and
    value, ``columns`` the types of what they and ``segments`` read. ``score`` is the value that the score is the chance
    of. After decisions that are ``unlabelled`` nothing can come true that anybody would see.

    ``most`` bounds the decisions that a lane keeps. ``prompts`` are the columns that tell of the prompts of language
    models, by the models' names, in the order in which these are asked.
    """

    values: tuple[str, ...]
    errors: Mapping[str, frozenset[str]] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, Expression]] = field(default_factory=dict)
    review_cost: float = 0.0
    score: str | None = None
    unlabelled: frozenset[str] = frozenset()
    segments: tuple[str, ...] = ()
    columns: Mapping[str, pl.DataType] = field(default_factory=dict)
    matures_after: timedelta = timedelta(days=60)
    retain: timedelta = timedelta(days=30)
    most: int = MOST_KEPT
    window: timedelta = timedelta(hours=1)
    baseline: BaselinePlan | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def priced(self) -> tuple[str, ...]:
        """The recorded columns that costs read."""
        read = {name for row in self.costs.values() for cost in row.values() for name in cost.columns}
        return tuple(sorted(read - {AMOUNT}))

    @property
    def reads(self) -> tuple[str, ...]:
        """The recorded columns that costs and segments read."""
        return tuple(dict.fromkeys([*self.segments, *self.priced]))

    @property
    def decoded(self) -> tuple[str, ...]:
        """The columns that are read of decisions: those of ``reads`` first."""
        return (*self.reads, *self.prompts.values())
