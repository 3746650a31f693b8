"""How the parts of the stage for language models act together: verdicts, budgets of the past, answers that are lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from streamproc.baselines import Judging
from streamproc.cli import cli
from streamproc.core.decide import TABLES
from streamproc.core.decide.events import decision_ids
from streamproc.core.decide.spending import TABLE, Kept
from streamproc.core.llm.text import MOST_MARKS, cleaned
from streamproc.core.processor import Answer, Ask, Score
from streamproc.core.versioned import read_kept
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.recorded_answers import Recorded
from tests.fast.llm_texts import ATTACKS
from tests.fast.test_llm_spending import BUDGET, LLM, write
from tests.llm_server import said, serving

CLASSIFIED = "\n      guards: {classifier: stackone-defender}"
GOOD = '{"score": 0.5}'


def opened(folder: Path, **more: str) -> Pipeline:
    return open_pipeline(write(folder, **more), masked=False)


def event(body: str) -> bytes:
    return orjson.dumps({"tenant": "acorn", "body": body})


def decide(pipeline: Pipeline, answers: dict[str, Any], *bodies: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Decisions where each model answers with a text or a number for every row; and how many rows each was asked."""
    asked = Counter[str]()

    def answer(ask: Ask) -> Answer:
        assert isinstance(ask, Score)
        asked[ask.model] += len(ask.ids)
        return Answer([answers.get(ask.model)] * len(ask.ids), [None] * len(ask.ids), "v")

    offline = Offline(pipeline.processor, answer, tables=TABLES)
    effects = offline.process(batch_of(pipeline.plan.events.topic, list(map(event, bodies))))
    topic = pipeline.plan.topics.decisions
    return [orjson.loads(value or b"") for one in effects.records if one.topic == topic for value in one.values], asked


@pytest.mark.parametrize("answered", [None, '{"score": 0.5, "why": "https://refund.example"}'])
def test_what_one_language_model_must_not_see_none_after_it_sees(tmp_path: Path, answered: str | None) -> None:
    """It was flagged by what only the first one's classifier knows, or the first one's answer shows that it obeyed."""
    models = LLM.format(id="first", budget="", more=CLASSIFIED) + LLM.format(id="second", budget="", more="")
    pipeline = opened(tmp_path, models=models)
    risk = 0.99 if answered is None else 0.0
    [one], asked = decide(pipeline, {"guard:first": risk, "first": answered, "second": GOOD}, "a sly order")
    assert asked["second"] == 0
    assert asked["first"] == (answered is not None)
    assert one["score_reason"] == ("flagged" if answered is None else "unwanted_output")


def test_what_is_flagged_no_shadow_sees(tmp_path: Path) -> None:
    shadow = "shadow:" + LLM.format(id="beside", budget="", more="")
    pipeline = opened(tmp_path, models=LLM.format(id="first", budget="", more=CLASSIFIED), rest=shadow)
    [one], asked = decide(pipeline, {"guard:first": 0.99, "beside": GOOD}, "a sly order")
    assert asked["beside"] == 0
    assert one["shadows"]["beside"]["reason"] == "flagged"


def test_events_of_the_past_are_judged_without_the_budgets_of_today(tmp_path: Path) -> None:
    count = 100
    pipeline = opened(tmp_path, budget=BUDGET)
    zeros = np.zeros(count, np.int64)
    ids = decision_ids(pipeline.plan.pipeline, pipeline.plan.events.topic, zeros, np.arange(count), zeros)
    told = {"score": 0.5, "score_reason": None, "scored_by": None, "features": {"llm_tokens": 200}}
    judging = Judging(pipeline, Recorded(pipeline.plan, count, count, dict.fromkeys(ids, told)))
    batch = batch_of(pipeline.plan.events.topic, [event(f"hello {number}") for number in range(count)])
    frame = judging._offline.frame(judging._processor.judge, [batch])
    assert Counter(frame.unscored) == {None: count}


def test_where_a_whole_answer_is_lost_all_calls_that_were_allowed_count(tmp_path: Path) -> None:
    pipeline = opened(tmp_path, budget=", tokens_per_key: {by: tenant, per: 1h, limit: 30k}")
    allowed = list[int]()

    def answer(ask: Ask) -> Answer:
        assert isinstance(ask, Score)
        bound = ask.columns["tokens"] + ask.columns["max_tokens"]
        allowed.append(int(bound[0] * ask.columns["most_calls"][0]))
        return Answer.nothing(len(ask.ids), "timeout")

    offline = Offline(pipeline.processor, answer, tables=TABLES)
    offline.process(batch_of(pipeline.plan.events.topic, [event("hello")]))
    [spent] = [read_kept(value, Kept, 1, "").spent for key, value in offline.state(0).items(TABLE) if key]
    assert [spent] == allowed
    assert spent > 1_000  # several calls


@pytest.mark.parametrize(
    ("budget", "more", "bodies", "asked"),
    [
        ("", "", [ATTACKS[0]] * 3, 0),
        (BUDGET, "", [f"hello {number}" for number in range(20)], 40),
        ("", "\n      limits: {requests: 1/1s}", [f"hello {number}" for number in range(20)], 40),
    ],
    ids=["nothing to be asked", "more than the budget", "quicker than the limit"],
)
def test_versions_are_judged_on_all_events(
    tmp_path: Path, budget: str, more: str, bodies: list[str], asked: int
) -> None:
    file = write(tmp_path, budget=budget, more=more)
    (tmp_path / "prompts/triage/2.md").write_text("Say it well.")
    data = tmp_path / "data.ndjson"
    rows = [{"tenant": "acorn", "body": body, "score": "0.5"} for body in bodies]
    data.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    with serving(said(GOOD)) as server:
        words = ["prompt", "test", str(file), "triage", "--data", str(data), "--versions", "1,2", "--json"]
        done = CliRunner().invoke(cli, [*words, "--endpoint", server.url, "--expect", "score=score"])
        assert done.exit_code == 0, done.output
        told = orjson.loads(done.output)
        assert asked <= len(server.asked) <= 1.2 * asked  # with second calls
    right = [one["accuracy"]["value"] for one in told["versions"]]
    assert right == ([1.0, 1.0] if asked else [0.0, 0.0])


def test_marks_without_end_are_not_brought_into_order() -> None:
    text = "a" + "\u0315" * 10_000 + "\u0327" * 10_000
    assert len(cleaned(text, 20_000).text) <= 1 + MOST_MARKS
    some = "a" + "\u0327\u0301" * 3
    assert cleaned(some, 100).hidden == 0
    assert len(cleaned(some * 1_000, 20_000).text) > 1_000
