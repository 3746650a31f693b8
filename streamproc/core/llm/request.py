"""What a language model is asked about each event, or why it is not asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.llm.guard import STEPS, Guarded, guarded
from streamproc.core.llm.policy import CLASSIFIER, GUARD, INPUT_CHARS, INPUT_TOKENS, PROMPT, RISK, SCRIPT, LlmPlan
from streamproc.core.llm.prompt import Marks, data, instructions
from streamproc.core.llm.text import Cleaned, cleaned, script_of

FLAGGED: Final = "flagged"
BUDGET: Final = "budget"
NO_INPUT: Final = "no_input"
SYSTEM: Final = "system"
USER: Final = "user"
MOST_TOKENS: Final = "max_tokens"
CANARY: Final = "canary"
TEXT: Final = "text"
"""The column of an ask of a classifier: each event's texts as guards see them, empty where there are none."""
LEAST_ANSWER: Final = 16
"""With fewer tokens left there is no use in asking."""


@dataclass(frozen=True, slots=True)
class Requests:
    """``columns`` of an ask, one entry per row; ``reasons`` say which rows are not to be asked, and why. ``shown`` are
    the columns of the frame that tell of it."""

    columns: Mapping[str, NDArray[Any]]
    reasons: list[str | None]
    shown: list[pl.Series]

    def some(self, rows: NDArray[np.int64]) -> Requests:
        """Those of some rows."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Requests(columns, [self.reasons[row] for row in rows.tolist()], [one[rows] for one in self.shown])


@dataclass(frozen=True, slots=True)
class _Request:
    system: str
    user: str
    most_tokens: int
    canary: str
    reason: str | None
    chars: int
    tokens: int
    script: str
    guarded: Guarded
    classified: float | None
    risk: float


def requests(
    plan: LlmPlan, frame: pl.DataFrame, ids: Sequence[str], classified: Sequence[float | None] | None = None
) -> Requests:
    """Per event what the model is asked. What is done for one is bounded, whatever stands in it.

    ``classified`` is what a classifier says of each, ``None`` where it said nothing.
    """
    said = [None] * len(ids) if classified is None else classified
    made = [_request(plan, fields, id, own) for fields, id, own in zip(_fields(plan, frame), ids, said, strict=True)]
    columns = {
        SYSTEM: _objects([one.system for one in made]),
        USER: _objects([one.user for one in made]),
        MOST_TOKENS: np.array([one.most_tokens for one in made], np.int64),
        CANARY: _objects([one.canary for one in made]),
    }
    own: dict[str, list[Any]] = {
        PROMPT: [f"{plan.prompt.name}@{plan.prompt.version}"] * len(made),
        INPUT_CHARS: [one.chars for one in made],
        INPUT_TOKENS: [one.tokens for one in made],
        SCRIPT: [one.script for one in made],
        **{GUARD + step: [one.guarded.steps[step] for one in made] for step in STEPS},
        RISK: [one.risk for one in made],
        CLASSIFIER: [one.classified for one in made],
    }
    given = plan.given
    named = ((plan.name(name), values) for name, values in own.items())
    shown = [pl.Series(name, values, dtype=given[name]) for name, values in named if name in given]
    return Requests(columns, [one.reason for one in made], shown)


def texts(plan: LlmPlan, frame: pl.DataFrame) -> NDArray[Any]:
    """Per event the texts that guards look at, for a classifier to be asked about."""
    return _objects([_whole(_clean(plan, fields)).text for fields in _fields(plan, frame)])


def _fields(plan: LlmPlan, frame: pl.DataFrame) -> Iterator[dict[str, str | None]]:
    columns = [frame[name].cast(pl.String).to_list() for name in plan.fields]
    return (dict(zip(plan.fields, row, strict=True)) for row in zip(*columns, strict=True))


def _clean(plan: LlmPlan, fields: Mapping[str, str | None]) -> dict[str, Cleaned]:
    return {name: cleaned(text, plan.most_chars) for name, text in fields.items() if text}


def _whole(clean: Mapping[str, Cleaned]) -> Cleaned:
    return Cleaned(
        "\n".join(one.text for one in clean.values()),
        sum(one.hidden for one in clean.values()),
        any(one.cut for one in clean.values()),
    )


def _request(plan: LlmPlan, fields: Mapping[str, str | None], decision_id: str, classified: float | None) -> _Request:
    marks = Marks.of(plan.prompt, decision_id)
    clean = _clean(plan, fields)
    whole = _whole(clean)
    found = guarded(whole)
    risk = found.risk_with(classified)
    system = instructions(plan.prompt, marks)
    kept = (
        None
        if plan.cut == "refuse" and whole.cut
        else _fitted(plan, {name: one.text for name, one in clean.items()}, marks)
    )
    user = "" if kept is None else data(kept, marks)
    tokens = plan.instruction_tokens + plan.counter.count(user)
    left = plan.tokens - tokens
    reason = None
    if not whole.text.strip():
        reason = NO_INPUT
    elif risk > plan.flag_above:
        reason = FLAGGED
    elif kept is None or left < LEAST_ANSWER:
        reason = BUDGET
    chars = sum(len(text) for text in fields.values() if text)
    script = script_of(whole.text)
    return _Request(system, user, max(left, 0), marks.canary, reason, chars, tokens, script, found, classified, risk)


def _fitted(plan: LlmPlan, texts: dict[str, str], marks: Marks) -> dict[str, str] | None:
    """The texts as they fit, each in its part of the room: short ones leave theirs to the longer ones. ``None`` where
    something does not fit and must not be cut."""
    room = plan.room - plan.counter.count(data(dict.fromkeys(texts, ""), marks)) - len(texts)
    fitted = dict[str, str]()
    by_length = sorted(texts, key=lambda name: (len(texts[name].encode()), name))
    for place, name in enumerate(by_length):
        part = room // (len(by_length) - place)
        kept = plan.counter.cut(texts[name], part, plan.cut) if texts[name] else ""
        if kept is None:
            return None
        fitted[name] = kept
        room -= plan.counter.count(kept)
    return {name: fitted[name] for name in texts}


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    made = np.empty(len(values), object)
    made[:] = values
    return made
