"""A language model that hangs, breaks and comes back, while events keep coming: nothing waits for it or is lost."""

from __future__ import annotations

from typing import Any

import orjson

from streamproc.baselines import learn
from streamproc.kafka.connection import Connection
from streamproc.pipeline import open_pipeline
from tests.kafka.car_loan import Example, command, make, produce, worker
from tests.kafka.test_control import Stream
from tests.kafka.test_drift import read
from tests.kafka.test_drift_control import rows
from tests.llm_server import hang, reset, said, serving, status
from tests.record_schemas import record_problems

SECONDS = 60.0
EVENTS = 1_500
DRIFT = """
drift:
  reference: {topic: loans, events: 100000}
  false_alarms: 1 per 1000000 events

rules:
"""
MODEL = """model:
  onnx: model.onnx
  inputs: [car_value, debt_to_income_ratio, loan_length, tenure, repaid_before, downpayment, salary]
  timeout: 5s
"""
WORDS = """model:
  llm:
    endpoint: {url}
    model: some-model
    prompt: prompts/loans
    input: [salary_range, size_of_downpayment, car_value]
    output: answer.schema.json
    deadline: 500ms
  breaker: {{calls: 3, wait: 1s}}
"""
ANSWER = {
    "type": "object",
    "properties": {"score": {"type": "number"}, "why": {"type": "string"}},
    "required": ["score"],
}


def make_in_words(connection: Connection, url: str, *changes: tuple[str, str]) -> Example:
    """The example with a language model in the place of its own."""
    made = make(connection, 2, [(MODEL, WORDS.format(url=url)), *changes])
    text = made.file.read_text(encoding="utf-8")
    made.file.write_text(text[: text.index("\ntests:")] + "\n", encoding="utf-8")
    prompt = made.file.parent / "prompts/loans"
    prompt.mkdir(parents=True)
    (prompt / "1.md").write_text("Say how likely it is that the loan is repaid.")
    (prompt / "labels.yaml").write_text('production: "1"\n')
    (made.file.parent / "answer.schema.json").write_bytes(orjson.dumps(ANSWER))
    return made


def test_the_fallback_chain_decides_until_the_model_is_back(connection: Connection) -> None:
    good = said('{"score": 0.9, "why": "pays well"}')
    with serving(good) as server:
        made = make_in_words(connection, server.url)
        stream, found = Stream(made), list[dict[str, Any]]()

        with worker(made):
            found += stream.until_tier("automatic", {None}, SECONDS)
            faults = (
                (reset(), "model_unavailable"),
                (hang(), "timeout"),
                (status(429), "rate_limited"),
                (said("?"), "bad_answer"),
            )
            for fault, reason in faults:
                server.behaviour = fault
                found += stream.until_tier("fallback:", {reason}, SECONDS)
                server.behaviour = good
                found += stream.until_tier("automatic", {None}, SECONDS)
    assert len({one["id"] for one in found}) == len(found)
    scored = [one for one in found if one["score_reason"] is None]
    assert {(one["score"], one["features"]["why"], one["features"]["llm_prompt"]) for one in scored} == {
        (0.9, "pays well", "loans@1")
    }
    # A call whose time was up counts, whether or not it had reached the server.
    in_time = [one["features"]["llm_calls"] or 0 for one in found if one["score_reason"] != "timeout"]
    assert 0 < sum(in_time) <= len(server.asked)
    for record in made.read("decisions"):
        assert record_problems(record.value, record.headers) == []


def test_what_is_normal_of_a_stream_is_learned_from_its_decisions(connection: Connection) -> None:
    """Nobody asks the language model again: the decisions say what it answered."""
    with serving(said('{"score": 0.9, "why": "pays well"}')) as server:
        made = make_in_words(connection, server.url, ("\nrules:\n", DRIFT), ("deadline: 500ms", "deadline: 5s"))
        kept = made.file.parent / "kept.ndjson"
        with worker(made):
            produce(connection, made.topic("events"), rows(0, EVENTS))
            decisions = [orjson.loads(record.value) for record in read(made, "decisions", EVENTS)]
            asked = len(server.asked)
            told = command(made, "drift", "rebase", str(made.file), "--why", "as it is", "--keep", str(kept)).stdout
        assert len(server.asked) == asked
    assert f"of {EVENTS:,} events" in told
    assert "is not watched: 0 of" not in told
    [new] = [orjson.loads(record.value) for record in made.read("control") if record.value is not None]
    columns = {column["name"]: column for column in new["baseline"]["columns"]}
    assert {"score", "decision", "model_status", "llm_output_tokens", "llm_input_chars", "llm_script"} <= {*columns}
    statuses = {one["features"]["model_status"] for one in decisions}
    assert {*columns["model_status"]["categories"], *columns["model_status"]["others"]} == statuses
    assert "why" not in columns

    # What was kept is the reference of the next version, with what was answered.
    text = made.file.read_text(encoding="utf-8").replace(
        "reference: {topic: loans, events: 100000}", "reference: kept.ndjson\n  answers: llm_answers"
    )
    made.file.write_text(text, encoding="utf-8")
    again = learn(open_pipeline(made.file))
    assert {column.name for column in again.bins} == {*columns}
    assert again.totals["model_status"] == new["baseline"]["totals"]["model_status"]
