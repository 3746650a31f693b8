"""What a language model is asked about each event, or why it is not asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from streamproc.core.llm.guard import STEPS, Guarded, guarded
from streamproc.core.llm.policy import (
    CLASSIFIER,
    GUARD,
    INPUT_CHARS,
    INPUT_TOKENS,
    PROMPT,
    PROMPT_HASH,
    RISK,
    SCRIPT,
    LlmPlan,
)
from streamproc.core.llm.prompt import Marks, Prompt, data, instructions
from streamproc.core.llm.text import Cleaned, cleaned, script_of
from streamproc.core.llm.tokens import Tokens

FLAGGED: Final = "flagged"
BUDGET: Final = "budget"
NO_INPUT: Final = "no_input"
SYSTEM: Final = "system"
USER: Final = "user"
MOST_TOKENS: Final = "max_tokens"
CANARY: Final = "canary"
BUDGET_KEY: Final = "budget_key"
LIMIT_KEY: Final = "limit_key"
INPUT_BOUND: Final = "tokens"
"""Tokens of the request's messages at most; with ``max_tokens`` all that a call can take."""
MOST_CALLS: Final = "most_calls"
"""So many calls there may be for a row. The column is there where lanes have to say."""
INPUT: Final = "input"
"""The texts as JSON, without marks, and with one space wherever there is any: what the answer is to."""
TENANT: Final = "tenant"
"""Whose event it is: nothing that is kept goes from one to another."""
TEXT: Final = "text"
"""The column of an ask of a classifier: each event's texts as guards see them, empty where there are none."""
FITS: Final = 4
"""So often texts are cut to fit at most."""
LEAST_ANSWER: Final = 16
"""With fewer tokens left there is no use in asking."""
Clean: TypeAlias = Mapping[str, Cleaned]


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
    input: str
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
    plan: LlmPlan,
    frame: pl.DataFrame,
    ids: Sequence[str],
    prompts: Sequence[Prompt] | None = None,
    classified: Sequence[float | None] | None = None,
    mask: Callable[[str | None], str | None] | None = None,
    clean: Sequence[Clean] | None = None,
) -> Requests:
    """Per event what the model is asked. What is done for one is bounded, whatever stands in it.

    ``prompts`` has the version of the prompt for each event; by default it is that of production. ``classified`` is
    what a classifier says of each, ``None`` where it said nothing. ``mask`` is for the keys of budgets, rates and
    the cache, which leave. ``clean`` is what ``clean_of`` gives, where that was asked before.
    """
    prompts = [plan.prompt] * len(ids) if prompts is None else prompts
    said = [None] * len(ids) if classified is None else classified
    parts = zip(
        _fields(plan, frame), clean_of(plan, frame) if clean is None else clean, prompts, ids, said, strict=True
    )
    made = [_request(plan, prompt, fields, texts, id, own) for fields, texts, prompt, id, own in parts]
    columns = {
        SYSTEM: _objects([one.system for one in made]),
        USER: _objects([one.user for one in made]),
        MOST_TOKENS: np.array([one.most_tokens for one in made], np.int64),
        CANARY: _objects([one.canary for one in made]),
        PROMPT_HASH: _objects([prompt.hash for prompt in prompts]),
        INPUT_BOUND: np.array([one.tokens for one in made], np.int64),
        BUDGET_KEY: _texts(frame, plan.budget.by, mask),
        LIMIT_KEY: _texts(frame, plan.limits.by, mask),
    }
    if plan.cache is not None:
        columns[INPUT] = _objects([one.input for one in made])
        columns[TENANT] = _texts(frame, plan.cache.by, mask)
    own: dict[str, list[Any]] = {
        PROMPT: [prompt.label for prompt in prompts],
        INPUT_CHARS: [one.chars for one in made],
        INPUT_TOKENS: [one.tokens for one in made],
        SCRIPT: [one.script for one in made],
        **{GUARD + step: [one.guarded.steps[step] for one in made] for step in STEPS},
        RISK: [one.risk for one in made],
        PROMPT_HASH: [prompt.hash for prompt in prompts],
        CLASSIFIER: [one.classified for one in made],
    }
    given = plan.given
    named = ((plan.name(name), values) for name, values in own.items())
    shown = [pl.Series(name, values, dtype=given[name]) for name, values in named if name in given]
    return Requests(columns, [one.reason for one in made], shown)


def clean_of(plan: LlmPlan, frame: pl.DataFrame) -> list[Clean]:
    """Per event its texts, harmless to handle."""
    fields = _fields(plan, frame)
    return [{name: cleaned(text, plan.most_chars) for name, text in own.items() if text} for own in fields]


def texts(clean: Sequence[Clean]) -> NDArray[Any]:
    """Per event the texts that guards look at, for a classifier to be asked about."""
    return _objects([_whole(one).text for one in clean])


def _fields(plan: LlmPlan, frame: pl.DataFrame) -> Iterator[dict[str, str | None]]:
    columns = [frame[name].cast(pl.String).to_list() for name in plan.fields]
    return (dict(zip(plan.fields, row, strict=True)) for row in zip(*columns, strict=True))


def _whole(clean: Clean) -> Cleaned:
    return Cleaned(
        "\n".join(one.text for one in clean.values()),
        sum(one.hidden for one in clean.values()),
        any(one.cut for one in clean.values()),
    )


def _request(
    plan: LlmPlan,
    prompt: Prompt,
    fields: Mapping[str, str | None],
    clean: Clean,
    decision_id: str,
    classified: float | None,
) -> _Request:
    marks = Marks.of(prompt, decision_id)
    whole = _whole(clean)
    found = guarded(whole)
    risk = found.risk_with(classified)
    system = instructions(prompt, marks)
    own = plan.system_tokens(prompt, system)
    kept, taken = None, 0
    if plan.cut != "refuse" or not whole.cut:
        room = plan.tokens - plan.answer_tokens - own
        kept, taken = _fitted(plan, room, {name: one.text for name, one in clean.items()}, marks)
    user = "" if kept is None else data(kept, marks)
    tokens = own + taken
    left = plan.tokens - tokens
    reason = None
    if not whole.text.strip():
        reason = NO_INPUT
    elif risk > plan.flag_above:
        reason = FLAGGED
    elif kept is None or left < LEAST_ANSWER:
        reason = BUDGET
    chars = sum(len(text) for text in fields.values() if text)
    shown = "" if kept is None or plan.cache is None else _as_input(kept)
    script, most = script_of(whole.text), max(left, 0)
    return _Request(system, user, shown, most, marks.canary, reason, chars, tokens, script, found, classified, risk)


def _as_input(texts: Mapping[str, str]) -> str:
    """Texts that differ in white space alone are one question."""
    return orjson.dumps({name: " ".join(text.split()) for name, text in texts.items()}).decode()


def _fitted(plan: LlmPlan, room: int, texts: dict[str, str], marks: Marks) -> tuple[dict[str, str] | None, int]:
    """The texts as they fit, and the tokens of the message that they make; ``None`` where something does not fit and
    must not be cut. Where tokens stand across what was counted apart, they are cut once more."""
    over = 0
    for _ in range(FITS):
        kept = _in_parts(plan, room - over, texts, marks)
        if kept is None:
            return None, 0
        taken = plan.counter.count(data(kept, marks))
        if taken <= room or isinstance(plan.counter, Tokens):
            return kept, taken
        over += taken - room
    return None, 0


def _in_parts(plan: LlmPlan, room: int, texts: dict[str, str], marks: Marks) -> dict[str, str] | None:
    """Each in its part of the room: short ones leave theirs to the longer ones."""
    room -= plan.counter.count(data(dict.fromkeys(texts, ""), marks)) + len(texts)
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


def _texts(
    frame: pl.DataFrame, name: str | None, mask: Callable[[str | None], str | None] | None = None
) -> NDArray[Any]:
    """A column as texts; ``None`` for all rows without one."""
    texts: list[str | None] = [None] * len(frame) if name is None else frame[name].cast(pl.String).to_list()
    return _objects(texts if mask is None else list(map(mask, texts)))


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    made = np.empty(len(values), object)
    made[:] = values
    return made
