"""Judging the versions of a prompt on labelled events, without Kafka: the model is asked as a worker would ask it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.llm.answer import BAD_ANSWER
from streamproc.core.llm.latency import nearest_rank
from streamproc.core.llm.policy import CALLS, INPUT_TOKENS, OUTPUT_TOKENS, LlmPlan
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.prompts import PROMPTS, Prompts
from streamproc.core.names import MODEL_CONFIDENCE
from streamproc.core.outcomes.intervals import wilson
from streamproc.core.outcomes.joining import text
from streamproc.core.outcomes.paired import Paired
from streamproc.core.plan import DECISION
from streamproc.core.processor import Answer, Ask, Lookup, Score, Seen
from streamproc.errors import UserError
from streamproc.io.answers import Answers
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import Pipeline, source_of
from streamproc.plan.names import near
from streamproc.plan.scoring import placed
from streamproc.rows import chunks

BATCH: Final = 64
"""So many events are put to one version, and then to the other: what a server is doing meets both."""
NOT_ASKED: Final = "not_asked"
QUANTILES: Final = (50, 95, 99)
Told = Callable[[int], None]
"""Told of every answer: how many there are."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """``field`` of a row says what is right; ``answer`` is what is held against it: the pipeline's decision, or a field
    of the model's answer."""

    field: str
    answer: str = DECISION

    @classmethod
    def of(cls, written: str) -> Expectation:
        """From ``FIELD`` or ``FIELD=ANSWER``."""
        own, _, answer = written.partition("=")
        return cls(own, answer or DECISION)


@dataclass(frozen=True, slots=True)
class Row:
    """An event, and what is right for it; ``None`` where nobody says."""

    value: bytes
    expected: str | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of an event. ``seconds`` is ``None`` where the model was not asked about it."""

    decision: str | None
    reason: str | None
    got: str | None
    seconds: float | None
    tokens: tuple[int, int, int]
    """Of all requests as counted, of the answer as the server says, and the number of calls."""


@dataclass(slots=True)
class Side:
    """One version, and what became of each event with it."""

    prompt: Prompt
    offline: Offline
    judged: list[Judged] = field(default_factory=list)


class Judge:
    """Puts events to two versions of the prompt of one of a pipeline's language models.

    All stages are those of a worker: contract, features, guards, requests, the check of answers, rules. Other models
    are not asked, nor is any cache.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        model: str,
        prompts: tuple[Prompt, Prompt],
        *,
        endpoint: str | None,
        key: str | None,
        environ: Mapping[str, str],
        concurrency: int,
    ) -> None:
        """With an ``endpoint`` the file's own are not asked, and its key is sent to nobody: ``key`` names another
        environment variable."""
        from streamproc.llms import open_llm

        [part] = [part for _, name, part in placed(pipeline.loaded.file)[0] if name == model]
        [(llm, self._guard)] = [(one.llm, one.guard) for one in pipeline.plan.models if one.name == model]
        assert part.llm is not None and llm is not None
        # Of what workers share nothing is used, and nothing is counted there.
        changes: dict[str, Any] = {"redis": None}
        if endpoint is not None:
            changes |= {"endpoint": [endpoint], "key": None if key is None else f"${{{key}}}"}
        opened = open_llm(
            part.llm.model_copy(update=changes),
            llm.unlimited,  # what was kept says nothing about a version, and a refusal neither
            part.breaker,
            environ,
            pipeline.loaded.path.parent,
        )
        self._answers = Answers({model: source_of(part, opened)})
        self._pool = ThreadPoolExecutor(min(concurrency, part.llm.in_flight), "judge")
        self._pipeline, self._model, self._llm, self._asked = pipeline, model, llm, count(1)
        self._told: Told = lambda _: None
        self._seconds: dict[str, float] = {}
        processor = _first(pipeline.processor, model)
        self.sides = tuple(
            Side(one, Offline(processor, self._answer, tables=TABLES, seen=_seen(one))) for one in prompts
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.shutdown(cancel_futures=True)
        self._answers.close()

    def put(self, rows: Sequence[Row], expectation: Expectation | None, told: Told) -> None:
        """Put the next events to both versions, which take turns in being first."""
        self._told = told
        for begin in range(0, len(rows), BATCH):
            order = self.sides if begin // BATCH % 2 == 0 else self.sides[::-1]
            for side in order:
                side.judged += self._judge(side, rows[begin : begin + BATCH], len(side.judged), expectation)

    def _judge(self, side: Side, rows: Sequence[Row], first: int, expectation: Expectation | None) -> list[Judged]:
        plan, self._seconds = self._pipeline.plan, {}
        topics = plan.topics
        effects = side.offline.process(batch_of(plan.events.topic, [row.value for row in rows], first_offset=first))
        decisions = {
            one["source"]["offset"]: one
            for output in effects.records
            if output.topic == topics.decisions
            for one in map(orjson.loads, filter(None, output.values))
        }
        return [self._judged(decisions.get(first + place), expectation) for place in range(len(rows))]

    def _judged(self, decision: Mapping[str, Any] | None, expectation: Expectation | None) -> Judged:
        if decision is None:
            return Judged(None, "dead_letter", None, None, (0, 0, 0))
        shown, seconds = decision["features"], self._seconds.get(decision["id"])
        into, out, calls = (int(shown.get(self._llm.name(name)) or 0) for name in (INPUT_TOKENS, OUTPUT_TOKENS, CALLS))
        got = None
        if expectation is not None:
            match expectation.answer:
                case "decision" | "score" as name:
                    got = decision[name]
                case "confidence":
                    got = shown.get(MODEL_CONFIDENCE)
                case name:
                    got = shown.get(name)
        return Judged(
            decision["decision"],
            decision["score_reason"],
            None if got is None else text(got),
            seconds,
            (into * calls, out, calls),
        )

    def _answer(self, ask: Ask) -> Answer:
        if isinstance(ask, Lookup) or ask.model == self._guard:
            return self._pipeline.answers.now(ask)
        if ask.model != self._model:
            return Answer.nothing(len(ask.ids), NOT_ASKED)
        return _joined(list(self._pool.map(self._one, [_row(ask, row) for row in range(len(ask.ids))])))

    def _one(self, ask: Score) -> Answer:
        """One call with all the time that a batch has, and how long it took."""
        began = time.monotonic()
        answer = self._answers.now(ask)
        self._seconds[ask.ids[0]] = time.monotonic() - began
        self._told(next(self._asked))
        return answer

    def as_json(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What both came to, side by side."""
        first, second = (side.judged for side in self.sides)
        told = {
            "prompt": self.sides[0].prompt.name,
            "model": self._model,
            "events": len(rows),
            "labelled": sum(row.expected is not None for row in rows),
            "versions": [_summary(side, rows) for side in self.sides],
            "decided_otherwise": sum(one.decision != other.decision for one, other in zip(first, second, strict=True)),
        }
        pairs = Counter(
            (_right(one, row), _right(other, row))
            for one, other, row in zip(first, second, rows, strict=True)
            if row.expected is not None
        )
        paired = Paired(*(pairs[pair] for pair in ((True, True), (True, False), (False, True), (False, False))))
        return told | {
            "paired": None
            if not paired.of
            else paired._asdict() | {"p_value": paired.p_value, "difference": paired.difference._asdict()}
        }


def model_of(pipeline: Pipeline, prompt: str, wanted: str | None) -> tuple[str, LlmPlan]:
    """The model whose prompt is judged: the first one that decides with it, or the one that is wanted."""
    found = {one.name: one.llm for one in pipeline.plan.models if one.llm is not None and one.llm.prompt.name == prompt}
    if not found:
        raise UserError(f"no model that decides is given the prompt {prompt!r}", "shadows are not judged")
    name = wanted or next(iter(found))
    if name not in found:
        raise UserError(f"the model {name!r} is not given the prompt {prompt!r}", near(name, found, "models"))
    return name, found[name]


def check(expectation: Expectation, llm: LlmPlan) -> None:
    """Raises UserError where an answer has no such field."""
    fields = [*llm.output.columns]
    if expectation.answer not in (DECISION, *fields):
        hint = near(expectation.answer, [DECISION, *fields], "fields")
        raise UserError(f"the answer has no field {expectation.answer!r}", hint)


async def read_rows(data: Path, expectation: Expectation | None, fields: Mapping[str, Any]) -> list[Row]:
    """The events of a file. What is right is taken out of an event where the contract does not know the field.

    Raises UserError where a row is no object, or none says what is right.
    """
    found = list[Row]()
    async for chunk in chunks(str(data)):
        for value in chunk.values:
            found.append(_labelled(value, expectation, fields, len(found) + 1))
    if not found:
        raise UserError(f"{data} has no events", "one JSON object a line")
    if expectation is not None and all(row.expected is None for row in found):
        raise UserError(f"no row of {data} has a field {expectation.field!r}", "name the field that says what is right")
    return found


def _labelled(value: bytes, expectation: Expectation | None, fields: Mapping[str, Any], number: int) -> Row:
    if expectation is None:
        return Row(value, None)
    try:
        row = orjson.loads(value)
    except orjson.JSONDecodeError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f"row {number:,} is no JSON object", "one JSON object a line")
    expected = row.get(expectation.field)
    if isinstance(expected, dict | list):
        raise UserError(f"row {number:,} says with a list or an object what is right", "give it as one value")
    if expectation.field not in fields and expectation.field in row:
        del row[expectation.field]
        value = orjson.dumps(row)
    return Row(value, None if expected is None else text(expected))


def _summary(side: Side, rows: Sequence[Row]) -> dict[str, Any]:
    judged = side.judged
    asked = [one for one in judged if one.seconds is not None]
    labelled = [_right(one, row) for one, row in zip(judged, rows, strict=True) if row.expected is not None]
    reasons = Counter(one.reason for one in judged if one.reason is not None)
    tokens = [sum(one.tokens[part] for one in asked) for part in range(3)]
    seconds = sorted(one.seconds for one in asked if one.seconds is not None)
    return {
        "version": side.prompt.version,
        "sha256": side.prompt.hash,
        "accuracy": wilson(sum(labelled), len(labelled))._asdict(),
        "asked": len(asked),
        "scored": sum(one.reason is None for one in judged),
        "bad_answers": wilson(reasons[BAD_ANSWER], len(asked))._asdict(),
        "reasons": dict(sorted(reasons.items())),
        "decisions": dict(sorted(Counter(one.decision for one in judged if one.decision is not None).items())),
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "calls": tokens[2],
        "seconds": {f"p{share}": _quantile(seconds, share / 100) for share in QUANTILES},
    }


def _right(one: Judged, row: Row) -> bool:
    return one.got is not None and one.got == row.expected


def _quantile(seconds: Sequence[float], share: float) -> float | None:
    """The time within which so large a share came, of sorted times."""
    return nearest_rank(seconds, share) if seconds else None


def _first(processor: DecideProcessor, model: str) -> DecideProcessor:
    """The processor with this model as the first one, so that decisions say what became of it."""
    plan = processor.plan
    [own] = [one for one in plan.models if one.name == model]
    others = tuple(one for one in plan.models if one is not own)
    return DecideProcessor.of_the_past(replace(plan, model=own, stand_ins=others, shadows=()), processor.masker)


def _seen(prompt: Prompt) -> Seen:
    return Seen({PROMPTS: {prompt.name: Prompts(prompt)}})


def _row(ask: Score, row: int) -> Score:
    some = {name: column[row : row + 1] for name, column in ask.columns.items()}
    return Score(ask.model, some, ask.ids[row : row + 1])


def _joined(answers: Sequence[Answer]) -> Answer:
    """One answer of those for single rows, of which there may be none."""
    if not answers:
        return Answer.nothing(0, NOT_ASKED)
    names = dict.fromkeys(name for one in answers for name in one.columns)
    return Answer(
        [value for one in answers for value in one.values],
        [reason for one in answers for reason in one.reasons],
        answers[0].version,
        "",
        {name: np.concatenate([one.columns.get(name, np.full(1, np.nan)) for one in answers]) for name in names},
        [version for one in answers for version in one.versions or [one.version]],
    )
