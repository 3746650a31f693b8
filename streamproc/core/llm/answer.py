"""What is made of what a language model wrote: a score and columns, or the reason why nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.llm.policy import SCORES, TOOK, LlmPlan
from streamproc.core.llm.request import CANARY, SYSTEM
from streamproc.core.names import MODEL_CONFIDENCE
from streamproc.core.processor import Answer

LEAKED: Final = "leaked"
UNWANTED: Final = "unwanted_output"
BAD_ANSWER: Final = "bad_answer"
_FENCE: Final = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
_LINKS: Final = re.compile(
    r"(?:https?|ftp|file|javascript|data):/?/?\S|!\[|\]\(|<\s*(?:img|script|iframe|a)\b", re.IGNORECASE
)
_TOOLS: Final = re.compile(
    r"\"(?:tool_calls?|function_call|tool_use)\"|<\|?(?:tool|function)_?call|<(?:invoke|function)\b", re.IGNORECASE
)
LEAKED_WORDS: Final = 12
"""An answer that repeats so many words of the instructions in a row tells of them."""


def fault_of(text: str, system: str, canary: str) -> str | None:
    """Why what was written must not be used, before its fields are looked at."""
    if canary in text or _repeats(text, system):
        return LEAKED
    if _LINKS.search(text) or _TOOLS.search(text):
        return UNWANTED
    return None


def read(plan: LlmPlan, answer: Answer, asked: Mapping[str, NDArray[Any]]) -> Answer:
    """The answer with scores for texts. ``asked`` are the columns of the ask, of as many rows.

    What holds numbers are scores already: those of a test, or of decisions that are made again.
    """
    took = {plan.name(name) if name in TOOK else name: column for name, column in answer.columns.items()}
    if not any(isinstance(value, str) for value in answer.values):
        return replace(answer, columns=took)
    reasons = list(answer.reasons)
    texts: list[bytes | None] = [None] * len(reasons)
    for row, value in enumerate(answer.values):
        if reasons[row] is None:
            text = _bare(value) if isinstance(value, str) else ""
            reasons[row] = fault_of(text, asked[SYSTEM][row], asked[CANARY][row])
            texts[row] = text.encode(errors="replace")
    places = [row for row, reason in enumerate(reasons) if reason is None]
    reading = plan.output.read([texts[row] for row in places])
    for number in reading.refused:
        reasons[places[number]] = BAD_ANSWER
    rows = np.array(places, np.int64)[reading.rows]
    spread = {name: _spread(reading.columns[name], rows, len(reasons)) for name in reading.columns.columns}
    scores = spread.get("score", np.full(len(reasons), np.nan))
    columns = {**took, **{name: column for name, column in spread.items() if name not in SCORES}}
    if "confidence" in spread:
        columns[MODEL_CONFIDENCE] = spread["confidence"]
    return Answer(scores, reasons, answer.version, answer.health, columns, answer.versions)  # type: ignore[arg-type]


def _bare(text: str) -> str:
    """Without the fence that models like to put around JSON."""
    found = _FENCE.fullmatch(text)
    return found[1] if found else text


def _spread(column: pl.Series, rows: NDArray[np.int64], count: int) -> NDArray[Any]:
    """Values of some rows among all of them: texts as objects, all else as numbers."""
    if column.dtype == pl.String:
        texts = np.full(count, None, object)
        texts[rows] = column.to_list()
        return texts
    numbers = np.full(count, np.nan)
    numbers[rows] = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return numbers


def _repeats(text: str, system: str) -> bool:
    heard, told = _words(text), _words(system)
    if len(heard) < LEAKED_WORDS:
        return False
    known = {tuple(told[at : at + LEAKED_WORDS]) for at in range(len(told) - LEAKED_WORDS + 1)}
    return any(tuple(heard[at : at + LEAKED_WORDS]) in known for at in range(len(heard) - LEAKED_WORDS + 1))


def _words(text: str) -> Sequence[str]:
    return re.findall(r"\w+", text.casefold())
