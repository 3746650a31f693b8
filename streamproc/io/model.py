"""What a model is to the shell: something that scores columns and has a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamproc.core.names import MODEL_CONFIDENCE, SCORE_OF

if TYPE_CHECKING:  # the process of a model knows little of streamproc
    from streamproc.core.processor import Answer, Score

LONGEST_VERSION = 100


class Unavailable(Exception):
    """The model cannot answer at the moment, whatever it is asked."""


class Starting(Unavailable):
    """It is not ready yet, and nobody has waited for it: that is no call that failed."""


class Rejected(Exception):
    """The model would not take this batch; it may take a part of it. The text holds nothing of what was asked."""


@runtime_checkable
class Closing(Protocol):
    """A model that holds something open."""

    def close(self) -> None:
        """Let go of it."""
        ...


@runtime_checkable
class Warming(Protocol):
    """A model that is slow the first time."""

    def warm_up(self) -> None:
        """Open what it will need, and ask nobody."""
        ...


@runtime_checkable
class Forgetting(Protocol):
    """A model that keeps answers."""

    def forget(self, prompt: str) -> None:
        """Let go of those to a version of a prompt, by its SHA-256, which is used no more."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """``values`` are float64 of shape (rows,), NaN where there is no score.

    ``columns`` are what else was said, of the same shape, by the names that they have in the frame. ``version`` is
    what the model calls itself, where it does. ``asked`` is false where there was nothing that it could be asked.
    """

    values: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    version: str = ""
    asked: bool = True


class Model(Protocol):
    """Scores a batch. It may raise: that is an answer with a reason, and not a bug of the worker's.

    Unavailable and TimeoutError say that there is no use in asking for a part of the batch.
    """

    @property
    def version(self) -> str:
        """A hash of what decides its scores, as far as that is known here."""
        ...

    def score(self, columns: Mapping[str, NDArray[Any]], rows: int, deadline: float = inf) -> Scores:
        """Scores of all rows. What can be stopped is, at ``deadline``, in seconds of ``time.monotonic``."""
        ...


@runtime_checkable
class RowModel(Protocol):
    """A model that is asked about each row by itself, so that rows come to nothing one by one."""

    @property
    def version(self) -> str:
        """A hash of what decides its answers, as far as that is known here."""
        ...

    def answer(self, ask: Score, deadline: float) -> Answer:
        """One entry per row, by ``deadline`` in seconds of ``time.monotonic``. May raise as ``Model`` may."""
        ...


@runtime_checkable
class Guarded(Protocol):
    """A model before which another one is asked."""

    @property
    def guard(self) -> RowModel | None:
        """That one, where there is one."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read what a model gives. ``classes`` name the columns of class probabilities, where they have names;
    ``score`` is the class whose probability is the score, the last one where none is stated."""

    classes: tuple[str, ...] = ()
    score: str | None = None

    @classmethod
    def of(cls, classes: Sequence[str], score: str | None) -> Reading:
        return cls(tuple(classes), score)

    def scores(
        self, given: NDArray[np.float64], confidence: NDArray[np.float64] | None = None, version: object = None
    ) -> Scores:
        """``given`` has shape (rows,) or (rows, classes). Raises ValueError where that does not fit."""
        rows = len(given)
        table = given.reshape(rows, -1) if rows else given.reshape(0, max(1, len(self.classes)))
        if self.classes and table.shape[1] != len(self.classes):
            raise ValueError("the answer has another number of classes")
        columns = {SCORE_OF + name: table[:, place] for place, name in enumerate(self.classes)}
        if confidence is not None:
            if confidence.shape not in ((rows,), (rows, 1)):
                raise ValueError("the answer has another number of confidences")
            columns[MODEL_CONFIDENCE] = confidence.reshape(rows)
        chosen = -1 if self.score is None else self.classes.index(self.score)
        return Scores(table[:, chosen], columns, named(version))


DEFAULT_READING = Reading()


def named(version: object) -> str:
    """A version that a model gave itself, as text; empty for none.

    Python reads a lone surrogate from JSON, and it can stand in no record: it becomes a question mark.

    >>> named("2026-\\ud800"), named(7), named(None)
    ('2026-?', '7', '')
    """
    if not isinstance(version, str | int | float):
        return ""
    return str(version).encode(errors="replace").decode()[:LONGEST_VERSION]


def numbers(given: Any) -> NDArray[np.float64]:
    """What came as an array or a list, as float64 of its shape; NaN for each thing in it that is no number.

    Raises ValueError for what is ragged.
    """
    array = np.asarray(given)
    if array.dtype.kind in "fiub":
        return array.astype(np.float64)
    if array.dtype.kind in "mM":  # as an object each would be a whole number
        return np.full(array.shape, np.nan)
    things = np.asarray(given, dtype=object)
    plain = [float(one) if type(one) in (int, float) or isinstance(one, np.number) else np.nan for one in things.flat]
    return np.array(plain, np.float64).reshape(things.shape)
