"""A pipeline whose model is a language model: from the file to decisions, over a real socket."""

from __future__ import annotations

import asyncio
import hashlib
import textwrap
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from streamproc.artefacts import artefacts
from streamproc.core.decide import TABLES
from streamproc.core.llm.policy import TOOK
from streamproc.core.processor import Answer, Effects, Seen
from streamproc.core.records import TYPED
from streamproc.core.state import Tables
from streamproc.errors import PipelineError
from streamproc.explain import explain, read_plan
from streamproc.offline import batch_of
from streamproc.pipeline import SECRET, Pipeline, open_before_models, open_pipeline
from streamproc.testing import run_tests
from streamproc.training import History
from streamproc.worker import warm_up
from tests.fast.llm_texts import ATTACKS
from tests.llm_server import in_turn, reset, said, serving, status
from tests.record_schemas import record_problems

FILE = """
pipeline: support
events: {topic: support.messages, schema: event.schema.json, key: id}
model:
  llm:
    endpoint: ${LLM_URL}
    key: ${LLM_KEY}
    model: some-model
    prompt: prompts/triage
    input: [subject, body]
    output: answer.schema.json
    budget: {tokens_per_request: 1200, answer: 200}
    deadline: 2s
confidence: model_confidence
rules:
  - {id: fraud, when: category = 'fraud', decide: escalate}
  - {id: unsure, when: confidence < 0.5, decide: review}
  - {id: urgent, when: score > 0.8, decide: escalate}
  - {id: rest, decide: answer}
fallback:
  - {id: attack, when: llm_risk > 0.7, decide: review}
  - {id: no-model, decide: answer}
actions: {escalate: support.escalations, answer: support.answers}
tests:
  - name: fraud goes on
    event: {id: a, subject: Card, body: Somebody used it}
    answer: {score: 0.5, confidence: 0.9, category: fraud}
    expect: {decision: escalate, rules: [fraud, rest], features: {category: fraud, llm_script: latin}}
  - name: nobody knows
    event: {id: a, subject: Card, body: Somebody used it}
    no_score: timeout
    expect: {decision: answer, tier: "fallback:no-model", fallback_reason: timeout}
  - name: an answer that is none
    event: {id: a, subject: Card, body: Somebody used it}
    answer: {score: 0.5, link: "https://x.example"}
    expect: {decision: answer, tier: "fallback:no-model", fallback_reason: no_score}
"""
EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "subject", "body")},
    "required": ["id"],
}
PROPERTIES: dict[str, Any] = {
    "score": {"type": "number"},
    "confidence": {"type": "number"},
    "category": {"enum": ["fraud", "other"]},
}
ANSWER = {"type": "object", "properties": PROPERTIES, "required": [*PROPERTIES]}
PROMPT = "Say how urgent the message is.\n"
GOOD = '{"score": 0.9, "confidence": 0.8, "category": "other"}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prompt = tmp_path / "prompts/triage"
    prompt.mkdir(parents=True)
    (tmp_path / "pipeline.yaml").write_text(FILE)
    (tmp_path / "event.schema.json").write_bytes(orjson.dumps(EVENT))
    (tmp_path / "answer.schema.json").write_bytes(orjson.dumps(ANSWER))
    (prompt / "1.md").write_text(PROMPT)
    (prompt / "labels.yaml").write_text('production: "1"\n')
    return tmp_path


@contextmanager
def opened(folder: Path, behaviour: Any) -> Any:
    with ExitStack() as stack:
        server = stack.enter_context(serving(behaviour))
        pipeline = open_pipeline(folder / "pipeline.yaml", {"LLM_URL": server.url, "LLM_KEY": "s3cret"})
        stack.callback(pipeline.answers.close)
        yield pipeline, server


def decided(pipeline: Pipeline, *bodies: str) -> list[Mapping[str, Any]]:
    """The decisions for messages, answered as in a worker."""
    return [
        orjson.loads(value)
        for output in effects_of(pipeline, *bodies).records
        if output.topic == pipeline.plan.topics.decisions
        for value in output.values
    ]


def effects_of(pipeline: Pipeline, *bodies: str) -> Effects:
    """What comes of messages, answered as in a worker."""
    values = [orjson.dumps({"id": f"m{n}", "subject": "Hello", "body": body}) for n, body in enumerate(bodies)]
    batch = batch_of(pipeline.plan.events.topic, values)
    steps = pipeline.processor.process(batch, Tables(TABLES), Seen(), datetime(2024, 1, 1, tzinfo=UTC))

    async def go() -> Any:
        answers: list[Answer] | None = None
        try:
            while True:
                answers = await pipeline.answers(steps.send(answers))  # type: ignore[arg-type]
        except StopIteration as stop:
            return stop.value

    effects: Effects = asyncio.run(go())
    return effects


def test_messages_are_decided_by_what_the_model_says_and_say_what_it_took(folder: Path) -> None:
    with opened(folder, said(GOOD)) as (pipeline, server):
        one, two = decided(pipeline, "Where is my parcel?", ATTACKS[0])
    assert (one["decision"], one["tier"], one["rule"], one["confidence"]) == ("escalate", "automatic", "urgent", 0.8)
    shown = one["features"]
    assert (shown["category"], shown["llm_calls"], shown["llm_output_tokens"], shown["llm_risk"]) == ("other", 1, 7, 0)
    assert (shown["llm_tokens"], shown["llm_money"]) == (18, None)  # nobody says what tokens cost
    assert (shown["llm_prompt"], shown["llm_script"], shown["llm_input_chars"]) == ("triage@1", "latin", 24)
    known = hashlib.sha256(PROMPT.encode()).hexdigest()
    assert shown["llm_prompt_hash"] == known
    assert one["model"] == f"{pipeline.plan.model_version}+{known[:16]}@stub-1"
    assert (two["decision"], two["tier"], two["score_reason"]) == ("review", "fallback:attack", "flagged")
    assert two["features"]["llm_guard_rules"] == 0.9
    assert two["features"]["category"] is None
    [asked] = server.asked  # what is flagged is shown to no model
    assert "Where is my parcel?" in asked["messages"][1]["content"]
    assert PROMPT.strip() in asked["messages"][0]["content"]


def test_where_it_gives_nothing_the_fallback_chain_decides(folder: Path) -> None:
    with opened(folder, reset()) as (pipeline, server):
        [one] = decided(pipeline, "Where is my parcel?")
    assert (one["decision"], one["tier"], one["score_reason"]) == ("answer", "fallback:no-model", "model_unavailable")
    assert one["features"]["llm_calls"] == len(server.asked) == 3  # what was spent is told all the same


def test_a_decision_can_be_explained_by_its_archived_plan(folder: Path) -> None:
    with opened(folder, said(GOOD)) as (pipeline, _):
        [one] = decided(pipeline, "Where is my parcel?")
        kept = next(artefact.body for artefact in artefacts(pipeline) if artefact.kind == "plan")
    traces = {trace.id: trace for trace in explain(one, read_plan(kept))}
    assert traces["fraud"].values == {"category": "other"}
    assert traces["fraud"].outcome == "not matched"
    assert traces["urgent"].decided


def test_what_rules_read_of_models_is_explained_with_its_own_type(folder: Path) -> None:
    rule = "  - {id: broken, when: \"model_status <> 'ok' OR scored_by = 'x'\", decide: review}\n"
    (folder / "pipeline.yaml").write_text(FILE.replace("rules:\n", "rules:\n" + rule, 1))
    with opened(folder, said(GOOD)) as (pipeline, _):
        [one] = decided(pipeline, "Where is my parcel?")
        kept = next(artefact.body for artefact in artefacts(pipeline) if artefact.kind == "plan")
    [trace, *_] = explain(one, read_plan(kept))
    assert trace.values == {"model_status": "ok", "scored_by": "llm"}


def test_tests_of_the_file_ask_nobody(folder: Path) -> None:
    results = run_tests(open_pipeline(folder / "pipeline.yaml", masked=False))
    assert [(result.name, result.differences) for result in results if not result.passed] == []
    assert len(results) == 3


def test_the_hash_of_a_plan_is_of_what_decides(folder: Path) -> None:
    def plan() -> str:
        return open_pipeline(folder / "pipeline.yaml", masked=False).plan.hash

    before, file = plan(), (folder / "pipeline.yaml").read_text()
    for old, new in (("deadline: 2s", "deadline: 3s"), ("${LLM_URL}", "http://other/v1")):
        (folder / "pipeline.yaml").write_text(file.replace(old, new))
        assert plan() == before
    for old, new in (("some-model", "other-model"), ("answer: 200", "answer: 100"), ("[subject, body]", "[body]")):
        (folder / "pipeline.yaml").write_text(file.replace(old, new))
        assert plan() != before
    (folder / "pipeline.yaml").write_text(file)
    (folder / "prompts/triage/1.md").write_text(PROMPT + "Be kind.")
    assert plan() == before, "labels change while workers run: prompts stand in decisions one by one"


def test_a_worker_that_warms_up_asks_nobody(folder: Path) -> None:
    with opened(folder, said(GOOD)) as (pipeline, server):
        warm_up(pipeline)
        assert server.asked == []


PROBLEMS = {
    "unknown input": (("[subject, body]", "[subjekt, body]"), "is no field and no feature", "subject"),
    "no prompt": (("prompts/triage", "prompts/triag"), "cannot read labels.yaml of the prompt triag", "production"),
    "no schema": (("answer.schema.json", "answer.json"), "cannot read the output schema answer.json", "folder"),
    "schema without a score": (("answer.schema.json", "event.schema.json"), "no number `score`", "describe it"),
    "no room": (("tokens_per_request: 1200", "tokens_per_request: 300"), "left for the texts of an event", "raise"),
    "inputs too": (
        ("model:\n", "model:\n  inputs: [body]\n"),
        "`inputs` is for models that are asked in numbers",
        "take it out",
    ),
    "a fallback that reads the answer": (("llm_risk > 0.7", "category = 'fraud'"), "no usable score", "use features"),
    "a test that asks": (("    no_score: timeout\n", ""), "a test asks no language model", "answer"),
    "two answers": (
        ("    no_score: timeout\n", "    no_score: timeout\n    answer: {score: 1}\n"),
        "so does another key",
        "one of",
    ),
    "two kinds": (
        ("  llm:\n", "  onnx: model.onnx\n  llm:\n"),
        "either `onnx`, `python`, `http` or `llm`",
        "exactly one",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_wrong_is_told_with_what_to_do(folder: Path, name: str) -> None:
    (old, new), message, remedy = PROBLEMS[name]
    assert old in FILE
    (folder / "pipeline.yaml").write_text(FILE.replace(old, new, 1))
    with pytest.raises(PipelineError) as raised:
        open_pipeline(folder / "pipeline.yaml", masked=False)
    problems = raised.value.problems
    assert any(message in one.message and remedy in one.remedy for one in problems), problems
    assert len(problems) == 1, problems


SHADOW = """
shadow:
  - id: beside
    llm: {endpoint: "http://127.0.0.1:1/v1", model: m, prompt: prompts/triage, input: [body],
          output: answer.schema.json, deadline: 9s}
rules:
"""
MORE_PROBLEMS = {
    "a parameter of ours": ("deadline: 2s", "deadline: 2s\n    parameters: {n: 16}", "`n` is not for `parameters`"),
    "a number too large": ("deadline: 2s", f"deadline: 2s\n    parameters: {{seed: {10**20}}}", "more than 64 bits"),
    "too many characters": ("deadline: 2s", "deadline: 2s\n    most_chars: 200001", "200000"),
    "a path that is none": ("prompts/triage", '"a\\0b"', "no folder can have"),
    "a shadow with more time": ("\nrules:\n", SHADOW, "this language model has more"),
}


@pytest.mark.parametrize("name", MORE_PROBLEMS)
def test_what_would_cost_or_crash_is_told_at_load(folder: Path, name: str) -> None:
    old, new, message = MORE_PROBLEMS[name]
    assert old in FILE
    (folder / "pipeline.yaml").write_text(FILE.replace(old, new, 1))
    with pytest.raises(PipelineError) as raised:
        open_pipeline(folder / "pipeline.yaml", masked=False)
    assert message in str(raised.value)


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "a confidence in words": ({"confidence": {"enum": ["low", "high"]}}, "`confidence` of the answer is no number"),
    "a column of ours": ({"llm_risk": {"type": "string"}}, "a column of streamproc's own has that name"),
    "an account of ours": ({"llm_calls": {"type": "number"}}, "a column of streamproc's own has that name"),
    "a status of ours": ({"model_status": {"type": "string"}}, "a column of streamproc's own has that name"),
    "a field of the event": ({"body": {"type": "string"}}, "a column has that name"),
}


def answers_have(folder: Path, fields: dict[str, Any], name: str = "answer") -> None:
    """Let the schema of answers have these fields too."""
    schema = {**ANSWER, "properties": {**PROPERTIES, **fields}}
    (folder / f"{name}.schema.json").write_bytes(orjson.dumps(schema))


@pytest.mark.parametrize("name", FIELDS)
def test_fields_of_answers_that_cannot_be_columns_are_told_at_load(folder: Path, name: str) -> None:
    fields, message = FIELDS[name]
    answers_have(folder, fields)
    with pytest.raises(PipelineError) as raised:
        open_pipeline(folder / "pipeline.yaml", masked=False)
    assert message in str(raised.value)


def test_two_language_models_agree_on_what_their_fields_are(folder: Path) -> None:
    answers_have(folder, {"category": {"type": "number"}}, "other")
    llm = FILE[FILE.index("  llm:") : FILE.index("confidence:")]
    both = "model:\n" + "".join(
        f"  - id: {id_}\n" + textwrap.indent(llm.replace("answer.schema", schema), "  ")
        for id_, schema in (("llm", "answer.schema"), ("next", "other.schema"))
    )
    file = FILE[: FILE.index("model:")] + both + FILE[FILE.index("confidence:") :]
    (folder / "pipeline.yaml").write_text(file)
    with pytest.raises(PipelineError, match="another model gives a column `category` too"):
        open_pipeline(folder / "pipeline.yaml", masked=False)
    file = file.replace("other.schema", "answer.schema")
    (folder / "pipeline.yaml").write_text(file)
    with serving(said(GOOD)) as server:
        pipeline = open_pipeline(folder / "pipeline.yaml", {"LLM_URL": server.url, "LLM_KEY": "k"})
        [one] = decided(pipeline, "Where is my parcel?")
        assert (one["tier"], one["features"]["next_risk"], one["features"]["next_calls"]) == ("automatic", None, None)
        server.behaviour = in_turn(status(401), status(401), said(GOOD))
        [one] = decided(pipeline, "Where is my parcel?")
        assert (one["tier"], one["features"]["llm_calls"], one["features"]["next_calls"]) == ("stand-in:next", 1, 1)
        assert one["features"]["category"] == "other"
        asked = len(server.asked)
        (folder / "pipeline.yaml").write_text(file.replace("${LLM_URL}", server.url))
        assert [one for one in run_tests(open_pipeline(folder / "pipeline.yaml", masked=False)) if not one.passed] == []
        assert len(server.asked) == asked  # nor are stand-ins asked by tests
        pipeline.answers.close()


def test_numbers_of_answers_are_exact(folder: Path) -> None:
    answers_have(folder, {"n": {"type": "integer"}, "sure": {"type": "boolean"}})
    for number in (2**53 + 1, 2**63 - 1, -(2**63)):
        with opened(folder, said(GOOD[:-1] + f', "n": {number}, "sure": true}}')) as (pipeline, _):
            [one] = decided(pipeline, "Where is my parcel?")
        assert (one["features"]["n"], one["features"]["sure"]) == (number, True)


def test_what_it_writes_about_sensitive_texts_leaves_as_a_hash(folder: Path) -> None:
    answers_have(folder, {"summary": {"type": "string"}})
    (folder / "pipeline.yaml").write_text(FILE.replace("key: id}", "key: id, sensitive: [body]}"))
    with serving(said(GOOD[:-1] + ', "summary": "my card is 4111"}')) as server:
        environ = {"LLM_URL": server.url, "LLM_KEY": "k", SECRET: "0123456789abcdef0123456789abcdef"}
        pipeline = open_pipeline(folder / "pipeline.yaml", environ)
        [one] = decided(pipeline, "my card is 4111")
        pipeline.answers.close()
    assert "4111" not in str(one)
    assert one["features"]["category"] == "other"  # one of a few words tells nothing


def test_a_version_of_a_prompt_never_changes(folder: Path) -> None:
    prompt = folder / "prompts/triage"
    known = hashlib.sha256(PROMPT.encode()).hexdigest()
    (prompt / "labels.yaml").write_text(f'production: "1"\nversions: {{"1": {known}}}\n')
    assert open_pipeline(folder / "pipeline.yaml", masked=False).plan.models[0].llm is not None
    (prompt / "1.md").write_text(PROMPT + "And be quick.")
    with pytest.raises(PipelineError, match="has changed since it was registered"):
        open_pipeline(folder / "pipeline.yaml", masked=False)


def test_a_variable_that_is_not_set_is_named_and_no_secret_is_told(folder: Path) -> None:
    with pytest.raises(PipelineError, match="LLM_KEY"):
        open_pipeline(folder / "pipeline.yaml", {"LLM_URL": "http://127.0.0.1:1/v1"})
    with pytest.raises(PipelineError) as raised:
        open_pipeline(folder / "pipeline.yaml", {"LLM_URL": "http://me:hush@127.0.0.1/v1", "LLM_KEY": "s3cret"})
    assert "hush" not in str(raised.value)


STAND_IN = """
pipeline: support
events: {topic: support.messages, schema: event.schema.json, key: id}
model:
  - {id: numbers, python: "numbers_of:score", inputs: [id], timeout: 5s}
  - id: words
    llm: {endpoint: "${LLM_URL}", model: m, prompt: prompts/triage, input: [body], output: answer.schema.json}
rules:
  - {id: rest, decide: answer}
fallback:
  - {id: nobody, decide: review}
actions: {answer: support.answers}
"""
NUMBERS = """
def score(columns):
    return [float("nan") if id == "m1" else 0.5 for id in columns["id"]]
"""


def stand_in(folder: Path, *changes: tuple[str, str]) -> None:
    text = STAND_IN
    for old, new in changes:
        text = text.replace(old, new)
    (folder / "pipeline.yaml").write_text(text)
    (folder / "numbers_of.py").write_text(NUMBERS)


def test_guards_of_a_stand_in_look_at_what_it_is_asked_about(folder: Path) -> None:
    stand_in(folder)
    with opened(folder, said(GOOD)) as (pipeline, server):
        one, two, three = decided(pipeline, "Where is it?", "Where is my parcel?", ATTACKS[0])
        assert [one["scored_by"], two["scored_by"], three["scored_by"]] == ["numbers", "words", "numbers"]
        shown = [(each["features"]["words_risk"], each["features"]["words_prompt"]) for each in (one, two, three)]
        assert shown == [(None, None), (0.0, "triage@1"), (None, None)]
        assert two["features"]["words_input_chars"] == len("Where is my parcel?")
        assert len(server.asked) == 1
        one, two = decided(pipeline, "Where is it?", ATTACKS[0])
        assert (two["score_reason"], two["features"]["words_risk"], len(server.asked)) == ("not_finite", 0.9, 1)
        [one] = decided(pipeline, "Nobody has to look at this.")
        assert one["features"]["words_risk"] is None


@pytest.mark.parametrize(
    "change",
    [
        ("  - {id: rest,", "  - {id: odd, when: words_risk > 0.7, decide: review}\n  - {id: rest,"),
        ("  - {id: nobody,", "  - {id: odd, when: words_risk > 0.7, decide: review}\n  - {id: nobody,"),
        ("rules:", "confidence: 1 - words_risk\nrules:"),
        ("rules:", "drift: {reference: {topic: t}, false_alarms: 1 per 1000 events, watch: [words_script]}\nrules:"),
    ],
)
def test_guards_of_a_stand_in_that_something_reads_look_at_all_events(folder: Path, change: tuple[str, str]) -> None:
    stand_in(folder, change)
    with opened(folder, said(GOOD)) as (pipeline, server):
        found = decided(pipeline, "Where is it?", "Where is my parcel?", ATTACKS[0])
        assert [one["features"]["words_risk"] for one in found] == [0.0, 0.0, 0.9]
        assert len(server.asked) == 1


def test_what_a_shadow_spent_stands_beside_what_it_said(folder: Path) -> None:
    begin, end = STAND_IN.index("  - id: words"), STAND_IN.index("rules:")
    words = STAND_IN[begin:end].replace("body], ", "body], deadline: 2s, ")
    stand_in(folder, (STAND_IN[begin:end], "shadow:\n" + words))
    with opened(folder, in_turn(said(GOOD), status(500), said(GOOD), status(400))) as (pipeline, server):
        for reason, spent in ((None, (1, 7, 18)), (None, (2, 7, 18)), ("model_error", (1, 0, 0))):
            [one] = decided(pipeline, "Where is my parcel?")
            told = one["shadows"]["words"]
            assert (told["reason"], told["spent"]) == (
                reason,
                dict(zip(TOOK, (spent[1], spent[0], spent[2], None), strict=True)),
            )
            assert record_problems(orjson.dumps(one), TYPED["decision"]) == []
        [one] = decided(pipeline, ATTACKS[0])  # it is not asked
        assert one["shadows"]["words"]["spent"] == dict.fromkeys(TOOK)
        assert len(server.asked) == 4


def test_features_of_a_history_need_no_prompt(folder: Path) -> None:
    (folder / "prompts/triage/1.md").unlink()
    with pytest.raises(PipelineError, match="cannot read 1"):
        open_pipeline(folder / "pipeline.yaml", masked=False)
    pipeline = open_before_models(folder / "pipeline.yaml")
    rows = [orjson.dumps({"id": "m", "subject": "s", "body": "b"})]
    assert len(History(pipeline, datetime(2024, 1, 1, tzinfo=UTC)).take(rows).ids) == 1
