"""How each kind of model is asked, and what is made of its answer: numbers as they are, or texts by way of requests."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide.frame import Frame, Rows
from streamproc.core.decide.usable import Usable, nothing_like
from streamproc.core.llm.answer import read
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.llm.request import TEXT, Requests, requests, texts
from streamproc.core.plan import ModelPlan
from streamproc.core.processor import Answer, Ask, Score

UNGUARDED = "unguarded"


@dataclass(frozen=True, slots=True)
class Asking:
    """One model, and what it is asked about some events, a column each and an entry per event."""

    model: ModelPlan
    columns: Mapping[str, NDArray[Any]] = field(repr=False)
    ids: Sequence[str]

    def ask(self) -> Score:
        """The ask."""
        return Score(self.model.name, self.columns, self.ids)

    def usable(self, answer: Answer) -> Usable:
        """What its answer comes to."""
        return Usable.of(answer, len(self.ids))


@dataclass(frozen=True, slots=True)
class AskingInWords(Asking):
    """A language model. The ``asked`` rows are those that it is asked about: the others have the reason why not."""

    llm: LlmPlan
    made: Requests = field(repr=False)
    asked: Rows

    @classmethod
    def of(cls, model: ModelPlan, llm: LlmPlan, made: Requests, ids: Sequence[str]) -> AskingInWords:
        asked = np.array([row for row, reason in enumerate(made.reasons) if reason is None], np.int64)
        columns = {name: column[asked] for name, column in made.columns.items()}
        return cls(model, columns, list(map(ids.__getitem__, asked.tolist())), llm, made, asked)

    def usable(self, answer: Answer) -> Usable:
        count = len(self.asked)
        if len(answer.values) != count or len(answer.reasons) != count:
            answer = Answer.nothing(count, "wrong_length", answer.version)
        return Usable.of(self._among(read(self.llm, answer, self.columns)), len(self.made.reasons))

    def _among(self, answer: Answer) -> Answer:
        """The answer for all rows: those that were not asked have the reason why."""
        whole = len(self.made.reasons)
        if len(self.asked) == whole:
            return answer
        values = np.full(whole, np.nan)
        values[self.asked] = [np.nan if value is None else value for value in answer.values]
        reasons, versions = list(self.made.reasons), [answer.version] * whole
        for number, place in enumerate(self.asked.tolist()):
            reasons[place] = answer.reasons[number]
            versions[place] = answer.versions[number] if answer.versions else answer.version
        columns = dict[str, NDArray[Any]]()
        for name, column in answer.columns.items():
            columns[name] = nothing_like(column, whole)
            columns[name][self.asked] = column
        return Answer(values, reasons, answer.version, answer.health, columns, versions)  # type: ignore[arg-type]


Prepared = Mapping[str, Requests]
"""By the name of a language model, what it is asked about each row of a frame, and what it is shown."""


def prepared(
    models: Sequence[ModelPlan], frame: Frame, rows: Rows | None = None, *, guards: bool = True
) -> Generator[list[Ask], list[Answer], Prepared]:
    """The requests of the language models among some models, about all events of a frame or some of them.

    With ``guards`` the classifiers before them are asked first, all at once. What one says nothing of goes on by the
    other guards, and is counted.
    """
    columns = frame.columns if rows is None else frame.columns[rows]
    ids = frame.ids if rows is None else list(map(frame.ids.__getitem__, rows.tolist()))
    words = [(model, model.llm) for model in models if model.llm is not None]
    asks = [Score(model.guard, {TEXT: texts(llm, columns)}, ids) for model, llm in words if guards and model.guard]
    answers = (yield list[Ask](asks)) if asks else []
    said = {ask.model: _classified(frame, answer, len(ids)) for ask, answer in zip(asks, answers, strict=True)}
    return {model.name: requests(llm, columns, ids, said.get(model.guard or "")) for model, llm in words}


def _classified(frame: Frame, answer: Answer, count: int) -> list[float | None]:
    """Numbers from 0 to 1; ``None``, and counted, where there is no such number."""
    if len(answer.values) != count or len(answer.reasons) != count:
        answer = Answer.nothing(count, "wrong_length")
    found = list[float | None]()
    for value, reason in zip(answer.values, answer.reasons, strict=True):
        usable = reason is None and value is not None and isfinite(value) and 0 <= value <= 1
        found.append(float(value) if usable else None)
        if not usable:
            frame.count(UNGUARDED, reason or "not_finite")
    return found


def asking_of(model: ModelPlan, frame: Frame, made: Prepared, rows: Rows | None = None) -> Asking:
    """How a model is asked about the events of a frame, or some of them. ``made`` has what is asked in words about just
    these."""
    ids = frame.ids if rows is None else list(map(frame.ids.__getitem__, rows.tolist()))
    if model.llm is not None:
        return AskingInWords.of(model, model.llm, made[model.name], ids)
    columns = {name: frame.columns[name].to_numpy() for name in model.inputs}
    return Asking(model, columns if rows is None else {name: one[rows] for name, one in columns.items()}, ids)


def shown(models: Sequence[ModelPlan], frame: Frame, made: Prepared) -> list[pl.Series]:
    """The columns that tell what language models are shown, of all events."""
    return [column for model in models if model.name in made for column in made[model.name].shown]
