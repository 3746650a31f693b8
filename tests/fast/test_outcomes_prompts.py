"""What decisions came to by the version of the prompt, and of the model, that they were made with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from streamproc.cli import cli
from streamproc.core.outcomes import measures
from streamproc.core.outcomes.measures import MOST_GROUPS, MOST_PROMPTS, Group, Window
from streamproc.core.outcomes.outcome import loads
from streamproc.core.outcomes.summary import summary
from streamproc.errors import UserError
from streamproc.late import Join, Outcomes
from tests.fast.outcome_records import START, START_MS, TOPICS, Lane, decision, id_of, make_plan, revision, rows_of
from tests.fast.test_outcomes_plan import OUTCOMES, PLAIN, opened
from tests.record_schemas import problems

PLAN = make_plan(prompts={"llm": "llm_prompt"})
HASH = "0123456789abcdef" * 2


def prompted(number: int, version: int, **more: Any) -> dict[str, Any]:
    model = f"{HASH}+{version:016x}@gpt-{version % 2}"
    shown = {"financed": 100.0, "region": "north", "llm_prompt": f"triage@{version}"}
    return decision(number, **({"features": shown, "model": model, "scored_by": "llm"} | more))


def told(lane: Lane) -> dict[str, Any]:
    windows = list(lane.windows().values())
    return summary(PLAN, windows, windows, datetime(2026, 1, 2, tzinfo=UTC))


def test_errors_and_overrides_are_told_by_prompt_and_by_model() -> None:
    lane = Lane(PLAN)
    review = {"decision": "review", "rule": "unsure", "would_be": "decline"}
    lane.give({TOPICS.decisions: rows_of([prompted(n, 1 + n % 2, **(review if n >= 8 else {})) for n in range(12)])})
    verdicts = [revision(n, 1, "approve" if n % 2 else "decline", would_be="decline") for n in range(8, 12)]
    lane.give({TOPICS.decisions: rows_of(verdicts)})
    outcomes = [
        {"id": id_of(n), "value": "defaulted" if n in (0, 2, 3) else "repaid", "time": START.isoformat()}
        for n in range(8)
    ]
    lane.give({TOPICS.outcomes_by_lane: rows_of(outcomes)})
    found = told(lane)
    one, two = found["prompts"]["triage@1"], found["prompts"]["triage@2"]
    assert (one["decisions"], two["decisions"]) == (6, 6)
    assert (one["errors"]["value"], two["errors"]["value"]) == (0.5, 0.25)
    assert (one["overrides"]["value"], two["overrides"]["value"]) == (0.0, 1.0)
    assert {name: row["decisions"] for name, row in found["models"].items()} == {f"{HASH}@gpt-0": 6, f"{HASH}@gpt-1": 6}
    for record in lane.records.values():
        assert problems("measures", orjson.loads(record)) == []


def test_prompts_of_a_window_are_bounded_and_nothing_is_lost() -> None:
    lane = Lane(PLAN)
    many = MOST_PROMPTS + 20
    rows = [prompted(number, number % many, model="m") for number in range(3 * many)]
    for begin in range(0, len(rows), 7):
        lane.give({TOPICS.decisions: rows_of(rows[begin : begin + 7])})
    table = told(lane)["prompts"]
    assert len(table) == MOST_PROMPTS + 1
    assert table["other"]["decisions"] == 3 * 20
    assert {row["decisions"] for name, row in table.items() if name != "other"} == {3}


def test_prompts_are_told_apart_also_where_there_are_too_many_groups() -> None:
    lane = Lane(PLAN)
    lane.give({TOPICS.decisions: rows_of(prompted(n, n % 2, rule=f"r{n}") for n in range(4 * MOST_GROUPS))})
    [window] = lane.windows().values()
    assert len(window.groups) == MOST_GROUPS + 2
    assert {row["decisions"] for row in told(lane)["prompts"].values()} == {2 * MOST_GROUPS}


def test_groups_are_bounded_whatever_prompts_there_are() -> None:
    window = Window(0, 60)
    for number in range(5 * MOST_GROUPS):
        tier, prompt = f"fallback:{number % 40}", f"p@{number % 60}"
        window.place(Group("{}", f"r{number}", "p", "m", tier, "approve", None, "rule", prompt))
    assert len(window.groups) <= 2 * MOST_GROUPS + 40


def test_records_of_the_version_before_are_still_read() -> None:
    lane = Lane(make_plan())
    lane.give({TOPICS.decisions: rows_of([decision(1), decision(2)])})
    lane.windows()
    [raw] = lane.records.values()
    old = orjson.loads(raw)
    assert [group.pop("prompt") for group in old["groups"]] == [None]
    old["version"] = 1
    number, window = measures.loads(orjson.dumps(old), 2)
    assert (number, window) == measures.loads(raw, 2)
    with pytest.raises(ValueError, match="it has version 3, and this is for version 2"):
        measures.loads(orjson.dumps(old | {"version": 3}), 2)


def test_a_lane_goes_on_with_groups_that_knew_no_prompts() -> None:
    """What a lane keeps of groups without a prompt is as it was before there were prompts."""
    lane = Lane(make_plan())
    lane.give({TOPICS.decisions: rows_of([decision(1)])})
    rows = [orjson.loads(value) for key, value in lane.tables.items("outcomes") if key[:1] == b"d"]
    assert [len(group) for [group] in rows] == [len(Group._fields) - 1]
    lane.plan = PLAN
    lane.restart()
    lane.give({TOPICS.decisions: rows_of([decision(2), prompted(3, 1)])})
    [window] = lane.windows().values()
    assert sorted((group.prompt or "", counts["decisions"]) for group, counts in window.groups.items()) == [
        ("", 2),
        ("triage@1", 1),
    ]


def test_late_outcomes_are_joined_with_decisions_that_name_prompts() -> None:
    known = Outcomes()
    known.add(loads(orjson.dumps({"id": id_of(1), "value": "repaid", "time": START.isoformat()})))
    [line] = Join(PLAN, known).give([orjson.dumps(prompted(1, 1))], [START_MS])
    assert line is not None


def test_a_pipeline_without_language_models_has_nothing_by_prompt(tmp_path: Path) -> None:
    opened(PLAIN + OUTCOMES, tmp_path)
    result = CliRunner().invoke(cli, ["stats", str(tmp_path / "pipeline.yaml"), "--by", "prompt"])
    assert isinstance(result.exception, UserError)
    assert "has no language model" in str(result.exception)
