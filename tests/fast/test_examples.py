"""The examples do what they say. That the committed model is its script's is a test of tests/slow."""

from __future__ import annotations

import runpy
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from streamproc import payments
from streamproc.cli.demo import pipeline_file
from streamproc.core.decide import TABLES
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import open_pipeline
from streamproc.sample import car_loans, example
from streamproc.testing import run_tests

ROWS = 2000
FOLDER = example("car_loan")


@pytest.fixture(scope="module")
def loans() -> pl.DataFrame:
    return pl.read_csv(car_loans().analysis, n_rows=ROWS)


def test_people_can_do_the_review_that_the_example_asks_for(loans: pl.DataFrame) -> None:
    pipeline = open_pipeline(FOLDER / "pipeline.yaml")
    values = [orjson.dumps(row) for row in loans.to_dicts()]
    effects = Offline(pipeline.processor, pipeline.answers.now).process(batch_of(pipeline.plan.events.topic, values))
    kinds = Counter({label: count for (name, label), count in effects.counts.items() if name == "decisions"})
    assert kinds.total() == ROWS
    assert kinds["review"] < ROWS / 10
    assert min(kinds["approve"], kinds["decline"]) > ROWS / 10


@pytest.mark.parametrize("name", ["car_loan", "card_fraud", "support_triage"])
def test_the_tests_of_the_examples_pass(name: str) -> None:
    results = run_tests(open_pipeline(example(name) / "pipeline.yaml", masked=False))
    assert results
    assert [result for result in results if not result.passed] == []


def test_people_can_do_the_review_of_payments_and_few_genuine_ones_are_declined() -> None:
    pipeline = open_pipeline(example("card_fraud") / "pipeline.yaml")
    rows = payments.events().head(4 * ROWS)
    values = [orjson.dumps(row) for row in rows.drop(payments.FRAUD).to_dicts()]
    offline = Offline(pipeline.processor, pipeline.answers.now, tables=TABLES, now=datetime.now(UTC))
    effects = offline.process(batch_of(pipeline.plan.events.topic, values))
    [decisions] = [output for output in effects.records if output.topic == pipeline.plan.topics.decisions]
    decided = pl.Series("decision", [orjson.loads(value or b"")["decision"] for value in decisions.values])
    found = rows.with_columns(decided).filter(kind="payment")
    assert len(found) > ROWS and len(decided) == len(rows)
    assert (found["decision"] == "review").mean() < 0.1
    assert (found.filter(payments.FRAUD)["decision"] == "decline").mean() > 0.5
    assert (found.filter(~pl.col(payments.FRAUD))["decision"] == "decline").mean() < 0.02
    assert set(rows.with_columns(decided).filter(kind="report")["decision"]) == {"noted"}


def test_the_counter_counts_as_a_plain_loop_does() -> None:
    names = runpy.run_path(str(Path(example("counter")) / "counter.py"))
    offline = Offline(names["Counter"]("in", "out"), _nothing, tables=(names["TABLE"],))
    keys: list[bytes | None] = [b"a", None, b"b", b"a", b"", b"a", b"b"]
    plain: Counter[bytes] = Counter()
    for first in range(0, len(keys), 3):
        some = keys[first : first + 3]
        effects = offline.process(batch_of("in", [b"x"] * len(some), keys=some, first_offset=first))
        [output] = effects.records
        for key, value in zip(output.keys, output.values, strict=True):
            plain[key or b""] += 1
            assert orjson.loads(value or b"")["count"] == plain[key or b""]
    state = offline.state(0).get_many(names["TABLE"], list(plain))
    assert [int(value or 0) for value in state] == list(plain.values())


def test_the_demo_says_where_the_pipeline_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parents[1])
    assert pipeline_file() == "examples/car_loan/pipeline.yaml"
    monkeypatch.chdir(tmp_path)
    assert Path(pipeline_file()) == FOLDER / "pipeline.yaml"


def _nothing(ask: Any) -> Any:
    raise LookupError(ask)
