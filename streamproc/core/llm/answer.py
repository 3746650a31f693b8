"""What is made of what a language model wrote: a score and columns, or the reason why nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamproc.core.llm.policy import SCORES, TOLD, LlmPlan
from streamproc.core.llm.prompt import ADDED, text_of
from streamproc.core.llm.request import CANARY, SYSTEM
from streamproc.core.names import MODEL_CONFIDENCE
from streamproc.core.processor import Answer

LEAKED: Final = "leaked"
UNWANTED: Final = "unwanted_output"
BAD_ANSWER: Final = "bad_answer"
_LINKS: Final = re.compile(
    r"\b(?:https?|ftp|file)://\S|\bjavascript:\S|\bdata:\w{1,20}/|!\[|\]\(\s{0,3}\S{0,20}[:/.]"
    r"|<\s{0,3}(?:img|script|iframe|a)(?:\s{1,3}\w{1,20}\s{0,3}=|\s{0,3}/?>)",
    re.IGNORECASE,
)
_TOOLS: Final = re.compile(
    r"\"(?:tool_calls?|function_call|tool_use)\"|<\|?(?:tool|function)_?call|<(?:invoke|function)\b", re.IGNORECASE
)
LEAKED_WORDS: Final = 12
"""An answer that repeats so many words of the instructions in a row tells of them."""


def read(plan: LlmPlan, answer: Answer, asked: Mapping[str, NDArray[Any]]) -> Answer:
    """The answer with scores for texts. ``asked`` are the columns of the ask, of as many rows.

    A number is a score already: that of a test, or of a decision that is made again.
    """
    reasons = list(answer.reasons)
    scores = np.array([value if isinstance(value, int | float) else np.nan for value in answer.values], np.float64)
    texts = {row: _bare(value) for row, value in enumerate(answer.values) if isinstance(value, str)}
    for row in [row for row in texts if reasons[row] is not None]:
        del texts[row]
    secrets = _Secrets(plan, asked)
    for row, text in list(texts.items()):
        if fault := secrets.fault_of(text, row):
            reasons[row] = fault
            del texts[row]
    places = np.array(list(texts), np.int64)
    reading = plan.output.read([text.encode(errors="replace") for text in texts.values()])
    for number in reading.refused:
        reasons[places[number]] = BAD_ANSWER
    rows = places[reading.rows]
    for name, kind in reading.columns.schema.items():
        if kind == pl.String:
            _look_at(secrets, reading.columns[name], rows, reasons)
    sound = np.array([reasons[row] is None for row in rows.tolist()], np.bool_)
    rows, columns = rows[sound], reading.columns.filter(pl.Series(sound))
    spread = {name: _spread(columns[name], rows, len(reasons)) for name in columns.columns}
    scores[rows] = spread["score"][rows].astype(np.float64)
    told = {plan.name(name) if name in TOLD else name: column for name, column in answer.columns.items()}
    said = {name: column for name, column in spread.items() if name not in SCORES} if texts else {}
    if texts and "confidence" in spread and not plan.sureness:
        said[MODEL_CONFIDENCE] = spread["confidence"].astype(np.float64)
    return Answer(scores, reasons, answer.version, answer.health, {**told, **said}, answer.versions)  # type: ignore[arg-type]


class _Secrets:
    """What answers must not tell of: the instructions of each row."""

    def __init__(self, plan: LlmPlan, asked: Mapping[str, NDArray[Any]]) -> None:
        self._plan, self._canaries, self._systems = plan, asked[CANARY], asked.get(SYSTEM)

    def fault_of(self, text: str, row: int) -> str | None:
        """Why a text must not be used, whatever its fields are."""
        own = self._plan.prompt.text if self._systems is None else text_of(self._systems[row])
        if self._canaries[row] in text or _repeats(text, own):
            return LEAKED
        return UNWANTED if _LINKS.search(text) or _TOOLS.search(text) else None


def _look_at(secrets: _Secrets, column: pl.Series, rows: NDArray[np.int64], reasons: list[str | None]) -> None:
    """Look at texts as they are once their escapes are gone: these are what would leave."""
    for row, text in zip(rows.tolist(), column.to_list(), strict=True):
        if text is not None and reasons[row] is None:
            reasons[row] = secrets.fault_of(text, row)


def _bare(text: str) -> str:
    """Without the fence that models like to put around JSON."""
    bare = text.strip()
    if not (bare.startswith("```") and bare.endswith("```") and len(bare) > len("``````")):
        return text
    kind, _, inside = bare[3:-3].partition("\n")
    return inside if kind.strip() in ("", "json") else text


def _spread(column: pl.Series, rows: NDArray[np.int64], count: int) -> NDArray[Any]:
    """Values of some rows among all of them: floats as they are, all else as objects."""
    if column.dtype == pl.Float64:
        numbers = np.full(count, np.nan)
        numbers[rows] = column.fill_null(np.nan).to_numpy()
        return numbers
    things = np.full(count, None, object)
    things[rows] = column.to_list()
    return things


def _repeats(text: str, instructions: str) -> bool:
    heard = _words(text)
    if len(heard) < LEAKED_WORDS:
        return False
    return not _runs(instructions).isdisjoint(_windows(heard))


@lru_cache(32)
def _runs(instructions: str) -> frozenset[tuple[str, ...]]:
    """Every run of so many words in the instructions of a prompt, with what is always added to them."""
    return frozenset(_windows(_words(f"{instructions} {ADDED}")))


def _windows(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[at : at + LEAKED_WORDS]) for at in range(len(words) - LEAKED_WORDS + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
