"""Confidence from the probabilities of tokens."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.core.llm.confidence import sureness
from streamproc.core.names import MODEL_CONFIDENCE
from streamproc.errors import PipelineError
from streamproc.io.llm import stream as streams
from streamproc.io.llm.stream import Completion, take
from streamproc.pipeline import open_pipeline
from tests.fast import test_llm_pipeline
from tests.fast.test_llm_model import TEXT, answered, model
from tests.fast.test_llm_parts import PLAN
from tests.fast.test_llm_pipeline import ANSWER, FILE, GOOD, decided, opened
from tests.llm_server import DONE, USAGE, Behaviour, chunk, said, status, stream

folder = test_llm_pipeline.folder
BY_TOKENS = replace(PLAN, sureness=True)
SURE = [('{"', 0.99), ("score", 0.9), ('":', 1.0), (" 0", 0.8), (".", 0.9), ("5", 0.3), ("}", 0.5)]
EXPECTED = (0.8 * 0.9 * 0.3) ** (1 / 3)


def told(token: str, chance: float, **more: Any) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(chance), "top_logprobs": [], **more}


def with_tokens(*tokens: tuple[str, float], size: int = 2) -> Behaviour:
    """A stream whose chunks tell of their tokens."""
    parts = [tokens[at : at + size] for at in range(0, len(tokens), size)]
    return stream(*(of("".join(one for one, _ in part), [told(*one) for one in part]) for part in parts), *END)


def of(text: str, content: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": content}, "finish_reason": None}
    return b"data: " + orjson.dumps({"model": "stub-1", "choices": [choice]}) + b"\n\n"


END = (chunk(finish="stop"), USAGE, DONE)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_confidence_is_that_of_the_tokens_of_the_score(size: int) -> None:
    with model([with_tokens(*SURE, size=size)], plan=BY_TOKENS) as (made, [server]):
        answer = answered(made)
    assert answer.values == [TEXT]
    assert answer.columns[MODEL_CONFIDENCE][0] == pytest.approx(EXPECTED)
    assert server.asked[0]["logprobs"] is True


def test_a_body_that_is_no_stream_tells_them_too() -> None:
    choice = {
        "message": {"content": TEXT},
        "finish_reason": "stop",
        "logprobs": {"content": [told(*one) for one in SURE]},
    }
    body = orjson.dumps({"choices": [choice], "usage": {"completion_tokens": 7}}).decode()
    with model([status(200, body, content_type="application/json")], plan=BY_TOKENS) as (made, _):
        assert answered(made).columns[MODEL_CONFIDENCE][0] == pytest.approx(EXPECTED)


ODD: list[Any] = [
    None, 3, "x", [3], [{}], [{"token": TEXT}], [{"token": 3, "logprob": -1}], [{"token": TEXT, "logprob": "0"}],
    [{"token": TEXT, "logprob": True}], [{"token": TEXT, "logprob": None}], [{"token": "other", "logprob": -0.1}],
    [{"token": TEXT, "logprob": -0.1, "bytes": [1, 2]}], [],
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_where_they_cannot_be_used_the_answer_counts_and_its_confidence_is_not_known(odd: Any) -> None:
    with model([stream(of(TEXT, odd), *END)], plan=BY_TOKENS) as (made, _):
        answer = answered(made)
    assert (answer.values, answer.reasons) == ([TEXT], [None])
    assert math.isnan(answer.columns[MODEL_CONFIDENCE][0])


def test_where_nobody_wants_them_they_are_not_asked_for() -> None:
    with model([with_tokens(*SURE)]) as (made, [server]):
        answer = answered(made)
    assert MODEL_CONFIDENCE not in answer.columns
    assert "logprobs" not in server.asked[0]


def test_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_TOKENS", 10)
    completion = Completion()
    for _ in range(3):
        take(completion, of("abcd", [told("a", 0.5)] * 4).removeprefix(b"data: "))
    assert completion.tokens is None
    take(completion, of("abcd", [told("a", 0.5)]).removeprefix(b"data: "))
    assert completion.tokens is None


def test_tokens_may_be_parts_of_characters() -> None:
    text = '{"why": "é", "score": 1}'
    raw = [(bytes([byte]), math.log(0.5)) for byte in text.encode()]
    assert sureness(text, raw) == 0.5
    told_ = {"token": "\\xc3", "bytes": [0xC3], "logprob": -1.0}
    completion = Completion()
    take(completion, of("", [told_]).removeprefix(b"data: "))
    assert completion.tokens == [(b"\xc3", -1.0)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": {"score": 1}, "score": 25}', "25"),
        ('{"b": [{"score": 1}], "a": "\\"score\\": 3", "score" :\n-2.5e-3, "c": 4}', "-2.5e-3"),
        ('```json\n{"score": 0.75}\n```', "0.75"),
        ('{"a": "score", "score": 7}', "7"),
        ('{"score": 1, "score": 33}', "33"),
    ],
)
def test_the_score_is_found_where_it_stands(text: str, value: str) -> None:
    begin = text.rindex(value)
    tokens = [
        (one.encode(), math.log(0.25) if begin <= at < begin + len(value) else 0.0) for at, one in enumerate(text)
    ]
    assert sureness(text, tokens) == 0.25


@pytest.mark.parametrize("text", ["", "0.5", '{"score": null}', '{"scores": 1}', '["score", 1]', '{"a": "score"}'])
def test_without_a_score_there_is_nothing_to_be_sure_of(text: str) -> None:
    assert sureness(text, [(text.encode(), -1.0)]) is None


@given(
    parts=st.lists(st.tuples(st.text(min_size=1, max_size=3), st.floats(-20, 0)), max_size=8),
    score=st.floats(-1e3, 1e3).map(lambda one: orjson.dumps(one).decode()),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    chances=st.lists(st.floats(-5, 0.1), min_size=60, max_size=60),
)
def test_it_is_the_mean_of_the_tokens_that_touch_the_value(
    parts: list[Any], score: str, cuts: list[int], chances: list[float]
) -> None:
    """A plain loop agrees."""
    begin = '{"why": ' + orjson.dumps("".join(one for one, _ in parts if one.isprintable())).decode() + ', "score": '
    text = begin + score + "}"
    raw, tokens, at = text.encode(), list[tuple[bytes, float]](), 0
    while at < len(raw):
        cut = cuts[len(tokens) % len(cuts)]
        tokens.append((raw[at : at + cut], chances[len(tokens) % len(chances)]))
        at += cut
    touching, at = list[float](), 0
    for token, logprob in tokens:
        places = range(at, at + len(token))
        if any(len(begin.encode()) <= place < len((begin + score).encode()) for place in places):
            touching.append(min(logprob, 0.0))
        at += len(token)
    assert sureness(text, tokens) == pytest.approx(math.exp(sum(touching) / len(touching)))


def test_a_text_that_never_ends_is_looked_at_once() -> None:
    text = '{"score": 1, "a": "' + '\\"' * 30_000
    began = time.perf_counter()
    assert sureness(text, [(text.encode(), -1.0)]) is not None
    assert sureness(text + "\\", [((text + "\\").encode(), -1.0)]) is not None
    assert time.perf_counter() - began < 5.0  # each quote tried again would take minutes


def by_tokens(folder: Path) -> None:
    fields = {name: kind for name, kind in ANSWER["properties"].items() if name != "confidence"}
    (folder / "answer.schema.json").write_bytes(
        orjson.dumps({**ANSWER, "properties": fields, "required": [*fields], "additionalProperties": True})
    )
    text = FILE.replace("    deadline: 2s\n", "    deadline: 2s\n    confidence: logprobs\n")
    (folder / "pipeline.yaml").write_text(text)


def test_rules_decide_by_it_and_where_it_is_not_known_they_say_so(folder: Path) -> None:
    by_tokens(folder)
    text = '{"score": 0.5, "category": "other"}'
    unsure = [('{"score": ', 1.0), ("0.5", 0.3), (', "category": "other"}', 0.9)]
    with opened(folder, with_tokens(*unsure)) as (pipeline, server):
        [one] = decided(pipeline, "Where is my parcel?")
        assert (one["rule"], one["decision"]) == ("unsure", "review")
        assert one["confidence"] == one["features"][MODEL_CONFIDENCE] == pytest.approx(0.3)
        server.behaviour = said(text)
        [one] = decided(pipeline, "Where is my parcel?")
        assert (one["score"], one["confidence"], one["undecided"]) == (0.5, None, ["unsure"])
        server.behaviour = said(GOOD)  # what it says of itself does not count
        [one] = decided(pipeline, "Where is my parcel?")
        assert (one["score"], one["confidence"]) == (0.9, None)


def test_an_answer_with_a_confidence_of_its_own_is_told_at_load(folder: Path) -> None:
    before = open_pipeline(folder / "pipeline.yaml", masked=False).plan.model_version
    (folder / "pipeline.yaml").write_text(FILE.replace("    deadline: 2s\n", "    confidence: logprobs\n"))
    with pytest.raises(PipelineError, match="with `logprobs` it would not count"):
        open_pipeline(folder / "pipeline.yaml", masked=False)
    by_tokens(folder)
    (folder / "pipeline.yaml").write_text((folder / "pipeline.yaml").read_text().replace("logprobs", "answer"))
    after = open_pipeline(folder / "pipeline.yaml", masked=False).plan.model_version
    by_tokens(folder)
    assert len({before, after, open_pipeline(folder / "pipeline.yaml", masked=False).plan.model_version}) == 3
