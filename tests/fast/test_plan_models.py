"""What of models is in the plan, and in its hashes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from streamproc.core.plan import Plan
from streamproc.pipeline import open_pipeline

URL = "http://scores:1/v2/models/m/infer"
ONE = f"model: {{http: '{URL}', inputs: [amount]}}"
PIPELINE = """
pipeline: payments
events: {topic: payments.events, schema: event.schema.json}
params: {half: 0.5, other: 1}
MODEL
confidence: ABS(score - half) * 2
rules: [{id: low, when: score < half AND amount > other, decide: review}, {id: rest, decide: approve}]
actions: {approve: payments.approved}
"""


def plan_of(folder: Path, model: str, *changes: tuple[str, str]) -> Plan:
    shutil.copy(Path(__file__).parent / "broken" / "event.schema.json", folder)
    text = PIPELINE.replace("MODEL", model)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "pipeline.yaml").write_text(text, encoding="utf-8")
    return open_pipeline(folder / "pipeline.yaml").plan


MODELS = [
    ONE,
    f"model: {{http: '{URL}', id: named, inputs: [amount]}}",
    f"model: {{http: '{URL}', inputs: [amount], classes: [bad, good]}}",
    f"model: {{http: '{URL}', inputs: [amount], classes: [bad, good], score: bad}}",
    f"model: {{http: '{URL}', inputs: [amount], confidence: sure}}",
    f"model: [{{http: '{URL}', inputs: [amount]}}, {{http: '{URL}', inputs: [amount]}}]",
    f"model: [{{http: '{URL}', inputs: [amount]}}, {{http: '{URL}2', inputs: [amount]}}]",
    f"model: [{{http: '{URL}2', inputs: [amount]}}, {{http: '{URL}', inputs: [amount]}}]",
    f"{ONE}\nshadow: [{{http: '{URL}2', inputs: [amount]}}]",
]


def test_what_decides_is_in_the_hash(tmp_path: Path) -> None:
    assert len({plan_of(tmp_path, model).hash for model in MODELS}) == len(MODELS)


@pytest.mark.parametrize("same", ["in_flight: 3", "timeout: 9s", "breaker: {calls: 3}"])
def test_what_does_not_is_not(tmp_path: Path, same: str) -> None:
    assert plan_of(tmp_path, ONE).hash == plan_of(tmp_path, ONE.replace("]}", f"], {same}}}")).hash


def test_a_list_of_one_is_that_one(tmp_path: Path) -> None:
    assert plan_of(tmp_path, ONE) != plan_of(tmp_path, MODELS[1])
    assert plan_of(tmp_path, ONE).hash == plan_of(tmp_path, f"model: [{{http: '{URL}', inputs: [amount]}}]").hash


def test_the_hash_of_confidence_is_of_what_it_means(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ONE)
    assert plan.confidence_hash is not None
    for change in (("other: 1", "other: 2"), ("decide: review", "decide: approve"), ("ABS(score", "abs( score")):
        changed = plan_of(tmp_path, ONE, change)
        assert changed.confidence_hash == plan.confidence_hash
    for change in (("half: 0.5", "half: 0.6"), (") * 2\n", ") * 3\n")):
        assert plan_of(tmp_path, ONE, change).confidence_hash != plan.confidence_hash
    assert plan_of(tmp_path, ONE, ("confidence: ABS(score - half) * 2\n", "")).confidence_hash is None


def test_models_without_ids_are_called_by_their_kind(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, MODELS[5] + f"\nshadow: [{{http: '{URL}', inputs: [amount]}}]")
    assert [model.name for model in (*plan.models, *plan.shadows)] == ["http", "http-2", "http-3"]
    assert plan.model_columns == ()
    assert plan_of(tmp_path, MODELS[2]).model_columns == ("score_bad", "score_good")
    read = plan_of(tmp_path, ONE, ("amount > other", "model_status = 'ok'"))
    assert read.model_columns == ("model_status",)
    assert "model_status" in read.recorded


def test_what_is_a_duplicate_is_in_the_hash(tmp_path: Path) -> None:
    old = "schema: event.schema.json"
    pairs = ["", ", id: id, dedupe: 24h", ", id: id, dedupe: 48h", ", id: time, dedupe: 24h"]
    pairs.append(", id: id, dedupe: 24h, max_ids: 5000")
    assert len({plan_of(tmp_path, ONE, (old, old + pair)).hash for pair in pairs}) == len(pairs)
