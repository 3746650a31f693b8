"""How each kind of model is asked, and what is made of its answer: numbers as they are, or texts by way of requests."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide.frame import Frame, Rows
from streamproc.core.decide.usable import Usable, nothing_like
from streamproc.core.llm.answer import read
from streamproc.core.llm.policy import PROMPT_HASH, LlmPlan
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.prompts import PROMPTS, Prompts, with_prompt
from streamproc.core.llm.request import BUDGET, FLAGGED, MOST_CALLS, TEXT, Requests, clean_of, requests, texts
from streamproc.core.plan import ModelPlan, Plan
from streamproc.core.processor import Answer, Ask, Score, Seen
from streamproc.core.sensitive import Masker

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
    rows: Rows
    """All of them, by their numbers in the frame."""

    @classmethod
    def of(
        cls, model: ModelPlan, llm: LlmPlan, made: Requests, ids: Sequence[str], rows: Rows | None = None
    ) -> AskingInWords:
        asked = np.array([row for row, reason in enumerate(made.reasons) if reason is None], np.int64)
        columns = {name: column[asked] for name, column in made.columns.items()}
        whole = np.arange(len(ids)) if rows is None else rows
        return cls(model, columns, list(map(ids.__getitem__, asked.tolist())), llm, made, asked, whole)

    def barred(self, rows: NDArray[np.bool_]) -> AskingInWords:
        """The same without the events that may be shown to no language model: shape (events of the frame,)."""
        return self._only(~rows[self.rows[self.asked]], FLAGGED)

    def within(self, most_calls: Sequence[int]) -> AskingInWords:
        """The same, where there may be so many calls for each of the rows that it is asked about; one without any is
        not asked about."""
        calls = np.array(most_calls, np.int64)
        left = self._only(calls > 0, BUDGET)
        return replace(left, columns={**left.columns, MOST_CALLS: calls[calls > 0]})

    def _only(self, left: NDArray[np.bool_], reason: str) -> AskingInWords:
        """The same about some of the rows; the others have a reason why not."""
        reasons = list(self.made.reasons)
        for row in self.asked[~left].tolist():
            reasons[row] = reason
        columns = {name: column[left] for name, column in self.columns.items()}
        ids = list(map(self.ids.__getitem__, np.flatnonzero(left).tolist()))
        made = replace(self.made, reasons=reasons)
        return replace(self, columns=columns, ids=ids, made=made, asked=self.asked[left])

    def usable(self, answer: Answer) -> Usable:
        count = len(self.asked)
        if len(answer.values) != count or len(answer.reasons) != count:
            answer = Answer.nothing(count, "wrong_length", answer.version)
        told, whole = self._among(read(self.llm, answer, self.columns)), len(self.made.reasons)
        own = told.versions or [told.version] * whole
        versions = list(map(with_prompt, own, self.made.columns[PROMPT_HASH].tolist())) if any(own) else None
        return Usable.of(replace(told, versions=versions), whole)

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


@dataclass(frozen=True, slots=True)
class Preparing:
    """Makes requests of the events of a frame. With a ``mask`` no key of an event leaves in clear."""

    plan: Plan
    frame: Frame
    seen: Seen
    mask: Callable[[str | None], str | None] | None = None

    @classmethod
    def of(cls, plan: Plan, frame: Frame, seen: Seen, masker: Masker | None) -> Preparing:
        return cls(plan, frame, seen, None if masker is None else masker.hash)

    def prepared(
        self, models: Sequence[ModelPlan], rows: Rows | None = None, *, guards: bool = True
    ) -> Generator[list[Ask], list[Answer], Prepared]:
        """The requests of the language models among some models, about all events of the frame or some of them.

        With ``guards`` the classifiers before them are asked first, all at once. What one says nothing of goes on by
        the other guards, and is counted.
        """
        frame = self.frame
        columns = frame.columns if rows is None else frame.columns[rows]
        ids = frame.ids if rows is None else list(map(frame.ids.__getitem__, rows.tolist()))
        words = [(model, model.llm) for model in models if model.llm is not None]
        clean = {model.name: clean_of(llm, columns) for model, llm in words}
        asks = [
            Score(model.guard, {TEXT: texts(clean[model.name])}, ids) for model, _ in words if guards and model.guard
        ]
        answers = (yield list[Ask](asks)) if asks else []
        said = {ask.model: _classified(frame, answer, len(ids)) for ask, answer in zip(asks, answers, strict=True)}
        return {
            model.name: requests(
                llm,
                columns,
                ids,
                self._prompts(llm, rows),
                said.get(model.guard or ""),
                self.mask,
                clean[model.name],
            )
            for model, llm in words
        }

    def _prompts(self, llm: LlmPlan, rows: Rows | None) -> list[Prompt]:
        """The version of the prompt for each event, by its key, and by the decision's id where it has none."""
        said: Mapping[str, Prompts] = self.seen.views.get(PROMPTS, {})
        prompts = said.get(llm.prompt.name, llm.prompts)
        frame, name = self.frame, self.plan.events.key
        some = list(range(len(frame))) if rows is None else rows.tolist()
        if name is None:
            own = [frame.records.keys[row] for row in frame.rows[some].tolist()]
        else:
            own = [None if key is None else str(key).encode() for key in frame.columns[name][some].to_list()]
        ids = map(frame.ids.__getitem__, some)
        return prompts.of([id_.encode() if key is None else key for key, id_ in zip(own, ids, strict=True)])


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
        return AskingInWords.of(model, model.llm, made[model.name], ids, rows)
    columns = {name: frame.columns[name].to_numpy() for name in model.inputs}
    return Asking(model, columns if rows is None else {name: one[rows] for name, one in columns.items()}, ids)


def shown(models: Sequence[ModelPlan], made: Prepared) -> list[pl.Series]:
    """The columns that tell what language models are shown, of all events."""
    return [column for model in models if model.name in made for column in made[model.name].shown]
