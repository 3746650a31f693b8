"""How each kind of model is asked, and what is made of its answer: numbers as they are, or texts by way of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.decide.frame import Frame, Rows
from streamproc.core.decide.usable import Usable, nothing_like
from streamproc.core.llm.answer import read
from streamproc.core.llm.policy import PROMPT_HASH, LlmPlan
from streamproc.core.llm.prompts import PROMPTS, Prompts, with_prompt
from streamproc.core.llm.request import BUDGET, MOST_CALLS, Requests, requests
from streamproc.core.plan import ModelPlan, Plan
from streamproc.core.processor import Answer, Score, Seen
from streamproc.core.sensitive import Masker


@dataclass(frozen=True, slots=True)
class Asking:
    """One model and the events of a batch. Rows are numbers of rows of its frame; all of them by default."""

    model: ModelPlan
    frame: Frame

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """What it is asked with, of all rows."""
        return {name: self.frame.columns[name].to_numpy() for name in self.model.inputs}

    @property
    def ids(self) -> Sequence[str]:
        return self.frame.ids

    def ask(self, rows: Rows | None = None) -> Score:
        """The ask for some rows."""
        columns = self.columns
        if rows is None or len(rows) == len(self.ids):
            return Score(self.model.name, columns, self.ids)
        some = {name: column[rows] for name, column in columns.items()}
        return Score(self.model.name, some, list(map(self.ids.__getitem__, rows.tolist())))

    def usable(self, answer: Answer, rows: Rows | None = None) -> Usable:
        """What its answer for these rows comes to."""
        return Usable.of(answer, len(self.ids) if rows is None else len(rows))

    @property
    def shown(self) -> Sequence[pl.Series]:
        """The columns that tell what it is shown."""
        return ()


@dataclass(frozen=True, slots=True)
class AskingInWords(Asking):
    """A language model. Some rows it is not asked about, for reasons of their own."""

    llm: LlmPlan
    made: Requests = field(repr=False)

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        return self.made.columns

    def ask(self, rows: Rows | None = None) -> Score:
        return super(AskingInWords, self).ask(self.asked(rows))

    def usable(self, answer: Answer, rows: Rows | None = None) -> Usable:
        asked = self.asked(rows)
        if len(answer.values) != len(asked) or len(answer.reasons) != len(asked):
            answer = Answer.nothing(len(asked), "wrong_length", answer.version)
        columns = {name: column[asked] for name, column in self.columns.items()}
        whole = np.arange(len(self.ids)) if rows is None else rows
        told = self._among(read(self.llm, answer, columns), asked, whole)
        own = told.versions or [told.version] * len(whole)
        hashes = self.columns[PROMPT_HASH][whole].tolist()
        versions = list(map(with_prompt, own, hashes)) if any(own) else None
        return Usable.of(replace(told, versions=versions), len(whole))

    @property
    def shown(self) -> Sequence[pl.Series]:
        return self.made.shown

    def within(self, most_calls: Mapping[int, int]) -> AskingInWords:
        """The same, where there may be so many calls for these rows; a row without any is not asked about."""
        columns, reasons = dict(self.made.columns), list(self.made.reasons)
        allowed = columns[MOST_CALLS] = np.array(columns.get(MOST_CALLS, np.zeros(len(reasons))), np.int64)
        for row, most in most_calls.items():
            allowed[row] = most
            reasons[row] = reasons[row] if most else BUDGET
        return replace(self, made=replace(self.made, columns=columns, reasons=reasons))

    def asked(self, rows: Rows | None) -> Rows:
        """Which of these rows the model is asked about."""
        whole = np.arange(len(self.ids)) if rows is None else rows
        return whole[[self.made.reasons[row] is None for row in whole.tolist()]] if len(whole) else whole

    def _among(self, answer: Answer, asked: Rows, whole: Rows) -> Answer:
        """The answer for all rows: those that were not asked have the reason why."""
        if len(asked) == len(whole):
            return answer
        places = np.searchsorted(whole, asked)
        values = np.full(len(whole), np.nan)
        values[places] = [np.nan if value is None else value for value in answer.values]
        reasons = [self.made.reasons[row] for row in whole.tolist()]
        versions = [answer.version] * len(whole)
        for number, place in enumerate(places.tolist()):
            reasons[place] = answer.reasons[number]
            versions[place] = answer.versions[number] if answer.versions else answer.version
        columns = dict[str, NDArray[Any]]()
        for name, column in answer.columns.items():
            columns[name] = nothing_like(column, len(whole))
            columns[name][places] = column
        return Answer(values, reasons, answer.version, answer.health, columns, versions)  # type: ignore[arg-type]


def asking_of(plan: Plan, model: ModelPlan, frame: Frame, seen: Seen, masker: Masker | None = None) -> Asking:
    """How a model of a plan is asked about the events of a frame. With a masker no key of an event leaves in clear."""
    if model.llm is None:
        return Asking(model, frame)
    said: Mapping[str, Prompts] = seen.views.get(PROMPTS, {})
    prompts = said.get(model.llm.prompt.name, model.llm.prompts).of(_keys(plan, frame))
    mask = None if masker is None else masker.hash
    return AskingInWords(model, frame, model.llm, requests(model.llm, frame.columns, frame.ids, prompts, mask))


def _keys(plan: Plan, frame: Frame) -> list[bytes]:
    """What is hashed to choose a version for each event: its key, and the decision's id where it has none."""
    name = plan.events.key
    if name is None:
        own = [frame.records.keys[row] for row in frame.rows.tolist()]
    else:
        own = [None if key is None else str(key).encode() for key in frame.columns[name].to_list()]
    return [id_.encode() if key is None else key for key, id_ in zip(own, frame.ids, strict=True)]
