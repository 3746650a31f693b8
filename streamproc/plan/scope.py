"""The names that expressions may read, and compiling in a file that may be broken elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from streamproc.core.expressions import Expression, Want, compile_expression
from streamproc.core.plan import CONFIDENCE, SCORE
from streamproc.errors import ExpressionError
from streamproc.plan.document import Document, Path_

ROUNDS = 8
# What a name of unknown type might be. What is wrong whatever it is, is wrong.
_GUESSES: tuple[pl.DataType, ...] = (pl.Float64(), pl.Boolean(), pl.String(), pl.Datetime("us", "UTC"))


@dataclass(slots=True)
class Scope:
    """``known`` are the columns so far, with their types; ``uncertain`` names exist, but are broken.

    ``open`` says that any name may exist: the contract could not be read. ``absent`` says of names that do
    not exist here why not, and what to do: a message and a remedy. ``of_models`` are the columns that models give
    beside the score, ``given`` those of them that say what they are shown.
    """

    document: Document
    known: dict[str, pl.DataType] = field(default_factory=dict)
    params: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)
    uncertain: set[str] = field(default_factory=set)
    open: bool = False
    absent: dict[str, tuple[str, str]] = field(default_factory=dict)
    of_models: dict[str, pl.DataType] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    watched: list[str] = field(default_factory=list)
    """Those of language models that may be watched for drift."""
    answered: list[str] = field(default_factory=list)
    """Those of ``watched`` that are known only with an answer."""

    def compile(self, at: Path_, text: str, want: Want = "any") -> Expression | None:
        """The expression, or ``None``: then it is wrong, which was told, or it reads a name that is."""
        believed: set[str] = set()
        for _ in range(ROUNDS):
            outcome = self._attempt(text, want, believed)
            if isinstance(outcome, Expression):
                return None if outcome.columns & believed else outcome
            if outcome is None:
                return None
            name = outcome.unknown
            if name is None:
                self._tell(at, outcome)
                return None
            if not (self.open or name in self.uncertain) or name in self.absent:
                self._tell(at, outcome, name)
            if name in believed:
                return None
            believed.add(name)
        return None

    def _attempt(self, text: str, want: Want, believed: set[str]) -> Expression | ExpressionError | None:
        """What comes of it, whatever the types of believed names are; ``None`` where that depends on them.

        A name that does not exist is wrong whatever they are.
        """
        outcomes: list[ExpressionError] = []
        for guess in _GUESSES if believed else _GUESSES[:1]:
            try:
                return compile_expression(
                    text, {**self.known, **dict.fromkeys(believed, guess)}, self.params, want=want, finite=True
                )
            except ExpressionError as error:
                outcomes.append(error)
        for outcome in outcomes:
            if outcome.unknown is not None:
                return outcome
        same = len({(error.message, error.offset) for error in outcomes}) == 1
        return outcomes[0] if same else None

    def _tell(self, at: Path_, error: ExpressionError, name: str | None = None) -> None:
        message, remedy = error.message, error.hint
        if name is not None and name in self.absent:
            message, remedy = self.absent[name]
        self.document.problem(at, message, remedy, offset=error.offset)


def without_score(scope: Scope, message: str, remedy: str, others: Iterable[str] = ()) -> None:
    """Take score and confidence out of a scope, with what else comes of a score, and say why they are not there."""
    for name in (SCORE, CONFIDENCE, *others):
        scope.known.pop(name, None)
        scope.uncertain.discard(name)
        scope.absent[name] = message.format(name=name), remedy
