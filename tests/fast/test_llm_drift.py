"""Drift beside a language model: its columns are watched, and a baseline never asks it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from streamproc.backtest import Backtest, run_backtest
from streamproc.baselines import learn, watching
from streamproc.cli import cli
from streamproc.core.decide.recorded import NOT_RECORDED, is_of, recorded, tells
from streamproc.core.drift.baseline import Baseline, without
from streamproc.core.llm.prompts import with_prompt
from streamproc.core.names import MODEL_CONFIDENCE
from streamproc.core.processor import Score
from streamproc.errors import PipelineError, UserError
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.recorded_answers import ENOUGH, Recorded, _keep
from tests.fast.test_llm_pipeline import ANSWER, EVENT, PROMPT
from tests.llm_server import Server, said, serving

ROWS = 3_000
ANSWERED = {"score", "confidence", "category", "llm_output_tokens", "llm_calls", "model_status", "decision", "would_be"}
SHOWN = {"llm_input_chars", "llm_script", "llm_guard_rules", "llm_risk"}
FILE = """
pipeline: support
events: {topic: support.messages, schema: event.schema.json, key: id}
model:
  llm:
    endpoint: URL
    model: some-model
    prompt: prompts/triage
    input: [body]
    output: answer.schema.json
confidence: model_confidence
drift:
  reference: reference.ndjson
  answers: decided
  false_alarms: 1 per 100000 events
rules:
  - {id: fraud, when: category = 'fraud', decide: escalate}
  - {id: odd, when: drift_llm_script = 'drifting' OR drift_model_status = 'drifting', decide: review}
  - {id: rest, decide: answer}
fallback:
  - {id: nobody, decide: review}
actions: {escalate: support.escalations, answer: support.answers}
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(said('{"score": 0.9, "confidence": 0.8, "category": "other"}')) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, server: Server) -> Path:
    fill(tmp_path, server.url)
    return tmp_path


def fill(tmp_path: Path, url: str) -> None:
    """Put a pipeline file there, with all that it names."""
    prompt = tmp_path / "prompts/triage"
    prompt.mkdir(parents=True)
    (prompt / "1.md").write_text(PROMPT)
    (prompt / "labels.yaml").write_text("production: 1\n")
    (tmp_path / "event.schema.json").write_bytes(orjson.dumps(EVENT | {"additionalProperties": False}))
    (tmp_path / "answer.schema.json").write_bytes(orjson.dumps(ANSWER))
    (tmp_path / "pipeline.yaml").write_text(FILE.replace("URL", url))
    write(tmp_path / "reference.ndjson", rows(1))


def rows(
    seed: int, count: int = ROWS, *, refused: float = 0.02, text: str = "Where is my parcel"
) -> list[dict[str, Any]]:
    """Messages, each with what stands in its decision."""
    drawn = random.Random(seed)
    return [row(number, text + " please" * drawn.randrange(40), drawn, refused) for number in range(count)]


def row(number: int, body: str, drawn: random.Random, refused: float) -> dict[str, Any]:
    took = {"llm_calls": 1.0, "llm_output_tokens": float(drawn.randrange(20, 60))}
    if drawn.random() < refused:
        decided: dict[str, Any] = {
            "score": None, "score_reason": "refused", "scored_by": None, "features": {"model_status": "refused", **took}
        }  # fmt: skip
    else:
        features = {"category": drawn.choice(["fraud", "other", "other"]), MODEL_CONFIDENCE: drawn.random(), **took}
        decided = {"score": drawn.random(), "score_reason": None, "scored_by": "llm", "features": features}
    return {"id": f"m{number}", "body": body, "decided": decided}


def write(path: Path, made: Sequence[Mapping[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in made))
    return path


def opened(folder: Path) -> Pipeline:
    return open_pipeline(folder / "pipeline.yaml", {}, masked=False)


def backtested(folder: Path, made: Sequence[Mapping[str, Any]]) -> Backtest:
    pipeline, baseline = watching(opened(folder))
    assert baseline is not None
    return asyncio.run(run_backtest(pipeline, baseline, str(write(folder / "rows.ndjson", made))))


def columns(baseline: Baseline) -> set[str]:
    return {column.name for column in baseline.bins}


def test_what_a_language_model_is_shown_and_answers_is_watched_and_it_is_not_asked(
    folder: Path, server: Server
) -> None:
    found = learn(opened(folder))
    assert columns(found) >= ANSWERED | SHOWN
    assert "llm_prompt" not in columns(found)
    # What the rows say is what is normal, and not what the server would have said.
    [status] = [column for column in found.bins if column.name == "model_status"]
    assert set(status.categories) == {"ok", "refused"}  # type: ignore[union-attr]
    assert sum(map(sum, found.totals["category"])) == ROWS
    assert not server.asked


def test_rows_like_the_reference_are_no_alarm(folder: Path) -> None:
    found = backtested(folder, rows(2))
    assert not found.alarms
    assert not found.unwatched


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"refused": 0.3}, "model_status"),
        ({"text": "Где моя посылка"}, "llm_script"),
        ({"text": "x" * 900}, "llm_input_chars"),
    ],
)
def test_more_refusals_another_script_and_longer_texts_are_alarms(
    folder: Path, server: Server, change: dict[str, Any], column: str
) -> None:
    assert column in {alarm["column"] for alarm in backtested(folder, rows(3, 2_000, **change)).alarms}
    assert not server.asked


def test_without_recorded_answers_what_needs_them_is_not_watched_and_why_is_told(folder: Path, server: Server) -> None:
    write(folder / "reference.ndjson", [{**one, "decided": None} for one in rows(1)])
    found = learn(opened(folder))
    assert columns(found) >= SHOWN | {"dead_letters"}
    assert not columns(found) & ANSWERED
    assert set(found.unwatched) >= ANSWERED
    assert (
        found.unwatched["score"]
        == f"0 of {ROWS:,} events of the reference have a recorded answer of the language model"
    )
    assert not server.asked


def test_few_events_without_an_answer_are_left_out_and_many_end_it(folder: Path) -> None:
    made = rows(1)
    for one in made[: round((1 - ENOUGH) * ROWS)]:
        del one["decided"]
    write(folder / "reference.ndjson", made)
    found = learn(opened(folder))
    assert sum(map(sum, found.totals["llm_risk"])) == round(ENOUGH * ROWS)
    assert {monitor.column for monitor in found.monitors} >= ANSWERED
    del made[-1]["decided"]
    write(folder / "reference.ndjson", made)
    assert not columns(learn(opened(folder))) & ANSWERED


def test_a_backtest_of_rows_without_answers_does_not_take_that_for_drift(folder: Path, server: Server) -> None:
    found = backtested(folder, [{"id": one["id"], "body": one["body"]} for one in rows(2)])
    assert not found.alarms
    assert set(found.unwatched) >= ANSWERED
    assert not server.asked


def test_the_commands_ask_nothing_and_say_what_is_off(folder: Path, server: Server) -> None:
    made = write(folder / "rows.ndjson", [{"id": one["id"], "body": one["body"]} for one in rows(2, 500)])
    for command in (
        ["drift", "calibrate", "pipeline.yaml"],
        ["drift", "backtest", "pipeline.yaml", str(made), "--no-compare"],
        ["drift", "report", "pipeline.yaml", "--html", str(folder / "drift.html"), "--input", str(made)],
    ):
        result = CliRunner().invoke(cli, [*command[:2], str(folder / command[2]), *command[3:]])
        assert result.exit_code == 0, result.output
        if "backtest" in command:
            assert "off  score: 0 of 500 events" in result.output
    assert not server.asked


def test_a_shadow_that_is_a_language_model_is_not_asked_either(folder: Path, server: Server) -> None:
    text = (folder / "pipeline.yaml").read_text()
    begin, end = text.index("model:"), text.index("confidence:")
    shadow = "shadow:\n  - llm:" + text[begin:end].partition("llm:")[2].replace("\n    ", "\n      ")
    numbers = "model: {python: 'numbers_of:score', inputs: [id], timeout: 2s}\n"
    (folder / "numbers_of.py").write_text("def score(columns):\n    return [0.5 for _ in columns['id']]\n")
    rest = text[end:].replace("confidence: model_confidence\n", "").replace("category = 'fraud'", "score > 0.8")
    rest = rest.replace("  answers: decided\n", "").replace(" OR drift_model_status = 'drifting'", "")
    rest = rest.replace("drift_llm_script", "drift_decision")
    (folder / "pipeline.yaml").write_text(text[:begin] + numbers + shadow + rest)
    write(folder / "reference.ndjson", [{"id": one["id"], "body": one["body"]} for one in rows(1)])
    pipeline = opened(folder)
    try:
        assert columns(learn(pipeline)) >= {"score", "decision"}
    finally:
        pipeline.answers.close()
    assert not server.asked


def test_a_check_says_what_is_not_watched(folder: Path) -> None:
    file = folder / "pipeline.yaml"
    file.write_text(file.read_text().replace("  answers: decided\n", ""))
    [warning] = open_pipeline(file, {}, masked=False).loaded.document.warnings
    assert "what a language model answers is not watched: `model_status`, `llm_output_tokens`" in warning.message
    text = file.read_text().replace("  false_alarms", "  watch: [llm_script, llm_risk]\n  false_alarms")
    file.write_text(text.replace(" OR drift_model_status = 'drifting'", ""))
    assert not open_pipeline(file, {}, masked=False).loaded.document.warnings


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reference: reference.ndjson", "reference: {topic: support.messages, events: 5000}", "`answers` needs a file"),
        ("  answers: decided\n", "  outcome: true_one\n", "`outcome` needs scores"),
        ("  answers: decided\n", "  answers: decided\n  outcome: decided\n", "`answers` and `outcome` are one field"),
        ("  answers: decided\n", "  answers: decided\n  segments: [category]\n", "`category` is no field"),
        ("  answers: decided\n", "  answers: decided\n  watch: [llm_prompt]\n", "`llm_prompt` is no field"),
    ],
)
def test_what_cannot_be_is_said_at_load(folder: Path, old: str, new: str, message: str) -> None:
    file = folder / "pipeline.yaml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(PipelineError, match=message):
        open_pipeline(file, {}, masked=False)


def test_the_script_of_texts_may_be_a_segment(folder: Path) -> None:
    file = folder / "pipeline.yaml"
    file.write_text(file.read_text().replace("  answers: decided\n", "  answers: decided\n  segments: [llm_script]\n"))
    assert [str(segment) for segment in learn(opened(folder)).segments] == ["llm_script = latin"]


def test_outcomes_of_a_reference_with_answers_give_expected_accuracy(folder: Path) -> None:
    file = folder / "pipeline.yaml"
    file.write_text(file.read_text().replace("  answers: decided\n", "  answers: decided\n  outcome: came_true\n"))
    made = [{**one, "came_true": (one["decided"]["score"] or 0) > 0.5} for one in rows(1)]
    write(folder / "reference.ndjson", made)
    assert learn(opened(folder)).accuracies
    write(folder / "reference.ndjson", [{**one, "decided": None} for one in made])
    with pytest.raises(UserError, match="expected accuracy needs a score that is watched"):
        learn(opened(folder))


ODD: list[Any] = [
    None, 3, "x", [], {}, {"score": "0.5"}, {"score": True}, {"score": None}, {"score": None, "score_reason": 3},
    {"score": None, "features": 3}, {"score": None, "score_reason": "mode_fallback"}, {"score": float("inf")},
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_what_tells_of_no_answer_is_none(odd: Any) -> None:
    assert not tells(odd)


@pytest.mark.parametrize("more", ["nonsense", '"score": ' + "[" * 2_000 + "]" * 2_000 + "}", '"score": "\ud800"}'])
def test_a_record_that_is_no_decision_tells_of_no_answer(folder: Path, more: str) -> None:
    plan = opened(folder).plan
    found = Recorded(plan)
    _keep(found, {"x"}, b'{"id":"x",' + more.encode(errors="surrogatepass"))
    assert found.said == {}
    made = f"{plan.models[0].version}+{plan.models[0].llm.prompt.hash[:16]}@1"  # type: ignore[union-attr]
    _keep(found, {"x"}, b'{"id":"x",' + orjson.dumps({"score": 0.5, "model": made, "features": {}})[1:])
    assert found.said["x"]["score"] == 0.5


def test_answers_are_given_back_by_id_and_what_is_of_another_type_is_nothing(folder: Path) -> None:
    plan = opened(folder).plan
    features = {"category": "fraud", MODEL_CONFIDENCE: 0.7, "llm_calls": 2, "llm_output_tokens": "many"}
    refused = {"model_status": "refused", "llm_calls": 1.0, "category": "fraud"}
    told = {
        "1": {"score": 0.25, "scored_by": "llm", "features": features},
        "2": {"score": None, "score_reason": "refused", "features": refused},
        "3": {"score": 0.5, "scored_by": "by-numbers", "features": refused},
    }
    found = recorded(plan, told, Score("llm", {}, ["2", "1", "4", "3"]))
    assert list(found.values) == [None, 0.25, None, None]
    assert list(found.reasons) == ["refused", None, NOT_RECORDED, "refused"]
    assert found.columns["category"].tolist() == [None, "fraud", None, None]
    assert found.columns["llm_calls"][[0, 1, 3]].tolist() == [1.0, 2.0, 1.0]
    assert str(found.columns["llm_output_tokens"][1]) == "nan"
    assert found.columns[MODEL_CONFIDENCE][1] == 0.7


def test_decisions_of_another_prompt_are_not_of_this_model(folder: Path) -> None:
    before = opened(folder).plan
    assert before.model is not None and before.model.llm is not None
    decision = {"model": with_prompt(f"{before.model.version}@stub-1", before.model.llm.prompt.hash)}
    assert is_of(before, decision)
    (folder / "prompts/triage/1.md").write_text("Another one.")
    assert not is_of(opened(folder).plan, decision)
    assert not is_of(before, {"model": None})


def test_a_baseline_without_columns_has_nothing_of_them(folder: Path) -> None:
    whole = learn(opened(folder))
    less = without(whole, {"score": "why", "nothing": "why not"})
    assert columns(whole) - columns(less) == {"score"}
    assert "score" not in {monitor.column for monitor in less.monitors} | {*less.totals}
    assert less.unwatched["score"] == "why"
    assert less.hash != whole.hash
    assert without(whole, {"nothing": "why not"}) is whole


def test_what_follows_from_texts_that_are_kept_as_hashes_is_not_watched(folder: Path) -> None:
    assert opened(folder).plan.follows_from_hashes == frozenset()
    schema = orjson.loads(orjson.dumps(ANSWER))
    schema["properties"]["note"] = {"type": "string"}
    (folder / "answer.schema.json").write_bytes(orjson.dumps(schema))
    file = folder / "pipeline.yaml"
    text = file.read_text().replace("key: id}", "key: id, sensitive: [body]}")
    file.write_text(text.replace("category = 'fraud'", "note = 'no such order'"))
    plan = opened(folder).plan
    assert plan.follows_from_hashes == {"decision", "would_be"}
    assert {*Recorded(plan, 10, 10).unwatched} == {"decision", "would_be"}
