"""What the part `outcomes` of a pipeline file adds to a pipeline, and what it does not."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from streamproc.core.outcomes.policy import OutcomesPlan
from streamproc.kafka.admin import TopicInfo
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.topics import differences, matters, pipeline_topics
from streamproc.worker import agents

BROKEN = Path(__file__).parent / "broken"
PLAIN = """
pipeline: payments
events: {topic: payments.events, schema: event.schema.json, key: id, time: time}
rules:
  - {id: new, when: age_days < 1, decide: decline}
  - {id: rest, decide: approve}
actions: {approve: payments.approved, decline: null}
"""
OUTCOMES = """
outcomes:
  values: [true, 0, lost]
  errors: {approve: [lost]}
"""


def opened(text: str, folder: Path) -> Pipeline:
    shutil.copy(BROKEN / "event.schema.json", folder)
    (folder / "pipeline.yaml").write_text(text)
    return open_pipeline(folder / "pipeline.yaml", masked=False)


def outcomes(text: str, folder: Path) -> OutcomesPlan:
    found = opened(text, folder).plan.outcomes
    assert found is not None
    return found


def test_without_the_part_nothing_is_there(tmp_path: Path) -> None:
    pipeline = opened(PLAIN, tmp_path)
    assert pipeline.plan.outcomes is None
    assert [agent.name for agent in agents(pipeline, 4)] == ["decide"]
    roles = {row.role for row in pipeline_topics(pipeline.loaded, agents(pipeline, 4), 4)}
    assert not roles & {"outcomes", "outcomes-by-lane", "metrics"}


def test_counting_alone_changes_no_decision_and_no_hash(tmp_path: Path) -> None:
    plain, counted = opened(PLAIN, tmp_path).plan, opened(PLAIN + OUTCOMES, tmp_path).plan
    assert (plain.hash, plain.recorded) == (counted.hash, counted.recorded)


def test_what_costs_and_segments_read_is_shown_by_decisions(tmp_path: Path) -> None:
    more = "  costs: {approve: {lost: 2 * amount, 0: 1}}\n  segments: [country]\n"
    plain, counted = opened(PLAIN, tmp_path).plan, opened(PLAIN + OUTCOMES + more, tmp_path).plan
    assert set(counted.recorded) - set(plain.recorded) == {"amount", "country"}
    assert counted.hash != plain.hash
    assert counted.outcomes is not None and counted.outcomes.reads == ("country", "amount")


def test_its_values_and_defaults(tmp_path: Path) -> None:
    plan = outcomes(PLAIN + OUTCOMES, tmp_path)
    assert plan.values == ("true", "0", "lost")
    assert (plan.retain, plan.matures_after) == (timedelta(days=30), timedelta(days=60))
    assert (plan.window, plan.most, plan.segments) == (timedelta(hours=1), 1_000_000, ())


def test_segments_of_drift_are_its_own_by_default(tmp_path: Path) -> None:
    drift = "drift: {reference: r.parquet, false_alarms: 1 per 30d, segments: [card.brand], watch: [amount]}\n"
    assert outcomes(PLAIN + drift + OUTCOMES, tmp_path).segments == ("card.brand",)
    assert outcomes(PLAIN + drift + OUTCOMES + "  segments: []\n", tmp_path).segments == ()


def test_its_agents_and_topics(tmp_path: Path) -> None:
    pipeline = opened(PLAIN + OUTCOMES, tmp_path)
    _, intake, outcome = agents(pipeline, 4)
    assert intake.topics == ("payments.outcomes",)
    assert intake.writes == ("payments.dead-letter", "payments.outcomes-by-lane")
    assert outcome.topics == ("payments.decisions", "payments.outcomes-by-lane")
    assert outcome.writes == ("payments.metrics",)
    review = "review: {ttl: 4h, on_expiry: escalate}\n"
    text = (PLAIN + OUTCOMES + review).replace("decline: null", "decline: null, escalate: null")
    reviewed = {agent.name: agent for agent in agents(opened(text, tmp_path), 4)}
    assert "payments.review-events" in reviewed["outcome"].topics
    assert set(reviewed["intake"].topics) == {"payments.verdicts", "payments.action-results", "payments.outcomes"}


@pytest.mark.parametrize("role", ["decisions", "outcomes", "outcomes-by-lane"])
def test_lanes_need_as_many_partitions_as_events_have(role: str, tmp_path: Path) -> None:
    text = PLAIN + OUTCOMES + "topics: {partitions: 3}\n"
    pipeline = opened(text, tmp_path)
    rows = {row.role: row for row in pipeline_topics(pipeline.loaded, agents(pipeline, 4), 4)}
    row = rows[role]  # type: ignore[index]
    assert row.spec.partitions == 4
    info = TopicInfo(row.spec.name, "id", 3, 1, {}, True)
    assert [problem.what for problem in differences(row, info) if matters(row, problem.what)]
