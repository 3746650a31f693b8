"""A row that a language model is asked about: what there is to be sent, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from streamproc.core.llm.budget import BudgetPlan
from streamproc.core.llm.request import (
    BUDGET_KEY,
    INPUT_BOUND,
    LIMIT_KEY,
    MOST_CALLS,
    MOST_TOKENS,
    SYSTEM,
    USER,
)
from streamproc.core.processor import Score
from streamproc.io.llm.stream import Completion

ANY_CALLS = 1 << 30


@dataclass(slots=True)
class Row:
    """``whole`` are the seconds that there are for all of it. Up to ``most_calls`` may be made, and ``allowed`` have
    been; ``reserves`` says that there may be a reservation."""

    id: str
    system: str
    user: str
    most_tokens: int
    input_tokens: int
    whole: float
    budget_key: str | None = None
    limit_key: str | None = None
    most_calls: int = ANY_CALLS
    text: str | None = None
    reason: str | None = "timeout"
    calls: int = 0
    allowed: int = 0
    reserves: bool = False
    output_tokens: int = 0
    tokens: int = 0
    money: int = 0
    """In millionths of a unit of currency."""
    model: str = ""
    cache: str | None = None
    """By what it was answered, where no call was needed."""
    confidence: float | None = None
    """What the probabilities of its tokens say, where that is asked for and known."""
    check: str | None = None
    """What was found out about what was kept for a like text."""

    @property
    def bound(self) -> int:
        """Tokens that a call can take."""
        return self.input_tokens + self.most_tokens

    def may_hold(self) -> None:
        """A Redis is asked to reserve something for it."""
        self.reserves = True

    def pay(self, budget: BudgetPlan, completion: Completion | None) -> None:
        """Count what a call took: as the server counts, or all that it can have been where that is not known."""
        own, answer = self.input_tokens, self.most_tokens
        if completion is not None:
            own, answer = completion.input_tokens or own, completion.output_tokens or answer
        self.tokens += own + answer
        self.money += budget.cost(own, answer)


def rows_of(ask: Score, whole: float) -> list[Row]:
    """The rows of an ask whose columns are those of ``streamproc.core.llm.request``."""
    columns, count = ask.columns, len(ask.ids)
    nothing = [None] * count
    return [
        Row(*parts)
        for parts in zip(
            ask.ids,
            columns[SYSTEM],
            columns[USER],
            columns[MOST_TOKENS].tolist(),
            columns[INPUT_BOUND].tolist(),
            [whole] * count,
            columns.get(BUDGET_KEY, nothing),
            columns.get(LIMIT_KEY, nothing),
            columns[MOST_CALLS].tolist() if MOST_CALLS in columns else [ANY_CALLS] * count,
            strict=True,
        )
    ]
