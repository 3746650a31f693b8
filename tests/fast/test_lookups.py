"""Look-ups in the decide processor: what is asked, what becomes of the answers, and what decisions say of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.artefacts import artefacts
from streamproc.cli import cli
from streamproc.core.processor import NOTHING_SEEN, Answer, Ask, Batch, Effects, Lookup, Records, run
from streamproc.core.state import Tables
from streamproc.explain import read_plan
from streamproc.offline import EPOCH, Offline, batch_of
from streamproc.pipeline import SECRET, Pipeline, open_pipeline
from streamproc.table_files import with_tables
from tests.fast.lookup_plans import PIPELINE, ROWS, TABLES, event, from_rows, write
from tests.fast.plans import sent
from tests.record_schemas import problems


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return open_pipeline(write(tmp_path))


def decided(pipeline: Pipeline, values: Sequence[bytes], answer: Callable[[Ask], Answer] = from_rows) -> list[Any]:
    return sent(_effects(pipeline, values, answer), "looks.decisions")


def _effects(pipeline: Pipeline, values: Sequence[bytes], answer: Callable[[Ask], Answer] = from_rows) -> Effects:
    return Offline(pipeline.processor, answer).process(batch_of("looks.events", values))


def test_what_is_found_is_a_column_and_what_is_not_is_flagged(pipeline: Pipeline) -> None:
    made = decided(pipeline, [event(n, who) for n, who in enumerate(["a", "b", "c", "x", None])])
    shown = [[one["features"][name] for name in ("income", "income_missing", "tier", "tier_missing")] for one in made]
    assert shown == [
        [50.0, False, "gold", False],
        [500.0, False, None, True],
        [-1.0, True, "gold", False],
        [-1.0, True, None, True],
        [-1.0, True, None, True],
    ]
    assert [one["decision"] for one in made] == ["decline", "approve", "review", "review", "review"]
    assert {one["lookups"]["profiles"] for one in made} == {"v1"}
    for one in made:
        assert problems("decision", one) == []


def test_each_reason_is_counted(pipeline: Pipeline) -> None:
    values = [event(n, who) for n, who in enumerate(["a", "b", "b", "c", "x", "x", None])]
    counts = {label: n for (name, label), n in _effects(pipeline, values).counts.items() if name == "missing_lookups"}
    assert counts == {"profiles/no_key": 1, "profiles/no_such_key": 2, "profiles/no_value": 3}


def test_a_source_is_asked_once_for_each_key(pipeline: Pipeline) -> None:
    asked = list[Lookup]()

    def answer(ask: Ask) -> Answer:
        assert isinstance(ask, Lookup)
        asked.append(ask)
        return from_rows(ask)

    decided(pipeline, [event(n, who) for n, who in enumerate(["b", "a", "b", None, "a"])], answer)
    [ask] = asked
    assert (ask.source, list(ask.keys), ask.lanes, ask.times) == ("profiles", [b"b", b"a"], None, None)


def test_nobody_is_asked_where_no_event_has_a_key(pipeline: Pipeline) -> None:
    def nobody(ask: Ask) -> Answer:
        raise AssertionError(ask)

    [one] = decided(pipeline, [event(1, None)], nobody)
    assert one["lookups"] == {"profiles": "not asked"}
    assert _effects(pipeline, [b"{"], nobody).counts[("dead_letters", "not_json")] == 1


@pytest.mark.parametrize(
    "rows", [[(1, 2, 3)], [("much", 7)], [(float("inf"), {"a": 1})], [([1], [])], [(10**400, b"x")]]
)
def test_whatever_a_source_says_an_event_is_decided(pipeline: Pipeline, rows: list[Any]) -> None:
    [one] = decided(pipeline, [event(1, "a")], lambda ask: Answer(rows, [None]))
    assert one["decision"] in ("review", "decline")


def test_a_value_of_another_type_is_missing_and_its_neighbours_are_not(pipeline: Pipeline) -> None:
    effects = _effects(
        pipeline, [event(1, "a"), event(2, "b")], lambda ask: Answer([("much", "gold"), (200, 7)], [None, None])
    )
    first, second = sent(effects, "looks.decisions")
    assert (first["features"]["income_missing"], first["features"]["tier"]) == (True, "gold")
    assert (second["features"]["income"], second["features"]["tier_missing"]) == (200.0, True)
    assert effects.counts[("missing_lookups", "profiles/wrong_type")] == 2


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), 10**400]),
    st.floats(),
    st.integers(-3, 3).map(float),
    st.text(max_size=3),
    st.sampled_from(["1", "true", "\ud800"]),
    st.binary(max_size=2),
    st.lists(st.integers(0, 1), max_size=2),
    st.just({"a": 1}),
)
TYPED = """
pipeline: looks
events: {topic: looks.events, schema: event.schema.json, key: id}
stores:
  geo: {redis: "redis://localhost", key: customer, types: {n: number, i: integer, b: boolean, t: text}}
features:
  n: {lookup: geo, field: n}
  i: {lookup: geo, field: i}
  b: {lookup: geo, field: b}
  t: {lookup: geo, field: t}
  alone: n > 1
rules: [{id: rest, when: n = 1 OR i = 1 OR b OR t = 'x', decide: review}, {id: all, decide: review}]
"""


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return open_pipeline(write(tmp_path_factory.mktemp("typed"), TYPED, ""))


@settings(deadline=None)
@given(rows=st.lists(ANYTHING, min_size=1, max_size=8))
def test_what_a_value_is_depends_on_no_other(rows: list[Any], typed: Pipeline) -> None:
    held = {str(number).encode(): (value,) * 4 for number, value in enumerate(rows)}

    def shown(values: Sequence[bytes]) -> list[dict[str, Any]]:
        def answer(ask: Ask) -> Answer:
            assert isinstance(ask, Lookup)
            return Answer([held[key] for key in ask.keys], [None] * len(ask.keys))

        return [one["features"] for one in decided(typed, values, answer)]

    values = [event(number, str(number)) for number in range(len(rows))]
    together = shown(values)
    assert together == [one for value in values for one in shown([value])]
    for value, features in zip(rows, together, strict=True):
        known = {name: not features[f"{name}_missing"] for name in "nibt"}
        number = type(value) in (int, float) and abs(value) <= sys.float_info.max
        assert known["n"] == number and known["b"] == (type(value) is bool)
        assert known["t"] == (type(value) is str and value != "\ud800")
        assert not known["i"] or (features["i"] == value and number)


@pytest.mark.parametrize(
    "answer", [Answer([], []), Answer([None], ["timeout"], health="timeout"), Answer([(1.0, "a")] * 3, [None] * 3)]
)
def test_an_answer_that_is_none_is_missing_everywhere(pipeline: Pipeline, answer: Answer) -> None:
    [one] = decided(pipeline, [event(1, "a")], lambda ask: answer)
    assert one["features"]["income_missing"]
    assert one["decision"] == "review"


def test_a_table_that_is_too_old_is_used_and_told_of(pipeline: Pipeline) -> None:
    effects = _effects(
        pipeline, [event(1, "a"), event(2, None)], lambda ask: Answer([(50.0, "x")], [None], "t 0:3", "stale")
    )
    first, _ = sent(effects, "looks.decisions")
    assert first["features"]["income"] == 50.0
    assert first["lookups"] == {"profiles": "t 0:3, stale"}
    assert effects.counts[("missing_lookups", "profiles/stale")] == 1


def test_rows_of_lanes_are_asked_for_with_their_lanes(tmp_path: Path) -> None:
    file = write(tmp_path, PIPELINE, TABLES.replace("key: customer}", "key: customer, hold: lanes}"))
    processor, asked = open_pipeline(file).processor, list[Lookup]()

    def answer(ask: Ask) -> Answer:
        assert isinstance(ask, Lookup)
        asked.append(ask)
        return from_rows(ask)

    batches = [_batch(number, ["a", "b", "a"]) for number in (3, 5)]
    run(processor.process_lanes(batches, [Tables(()), Tables(())], NOTHING_SEEN, EPOCH), answer)
    [ask] = asked
    assert ask.lanes is not None
    assert list(zip(ask.keys, ask.lanes.tolist(), strict=True)) == [(b"a", 3), (b"b", 3), (b"a", 5), (b"b", 5)]


def _batch(partition: int, who: Sequence[str]) -> Batch:
    values: list[bytes | None] = [event(n, one) for n, one in enumerate(who)]
    count = len(values)
    none: list[bytes | None] = [None] * count
    offsets = np.arange(count)
    return Batch(
        partition, {"looks.events": Records("looks.events", partition, none, values, [()] * count, offsets, offsets)}
    )


@settings(max_examples=50, deadline=None)
@given(who=st.lists(st.sampled_from(["a", "b", "c", "x", "", None]), min_size=1, max_size=12), cut=st.integers(0, 12))
def test_a_batch_is_its_rows(who: list[str | None], cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "rows"
    folder.mkdir(exist_ok=True)
    pipeline = open_pipeline(write(folder))
    for number, (name, one) in enumerate(
        zip(who, decided(pipeline, [event(n, w) for n, w in enumerate(who)]), strict=True)
    ):
        row = ROWS.get((name or "?").encode(), (None, None))
        expected = -1.0 if row[0] is None else row[0]
        assert (one["features"]["income"], one["features"]["tier"]) == (expected, row[1]), number
        assert (one["features"]["income_missing"], one["features"]["tier_missing"]) == (row[0] is None, row[1] is None)


def test_what_is_looked_up_by_a_sensitive_key_is_sensitive(tmp_path: Path) -> None:
    file = write(tmp_path, PIPELINE, TABLES, ("key: id,", "sensitive: [customer],"))
    plan = open_pipeline(file, masked=False).plan
    assert plan.sensitive >= {"customer", "income", "income_missing", "tier", "poor"}


def test_other_pipelines_say_nothing_of_look_ups(tmp_path: Path) -> None:
    text = PIPELINE.split("features:", maxsplit=1)[0] + "rules: [{id: all, decide: review}]"
    [one] = decided(open_pipeline(write(tmp_path, text, "")), [event(1, "a")])
    assert "lookups" not in one


CHAIN = """
pipeline: looks
events: {topic: looks.events, schema: event.schema.json}
tables:
  cards: {topic: cards, schema: card.schema.json, key: card}
  profiles: {topic: profiles, schema: profile.schema.json, key: owner}
features:
  owner: {lookup: cards, field: owner}
  income: {lookup: profiles, field: income}
rules: [{id: all, when: income > 5, decide: review}, {id: rest, decide: review}]
"""


def test_a_key_may_have_been_looked_up_itself(tmp_path: Path) -> None:
    (tmp_path / "card.schema.json").write_bytes(
        orjson.dumps({"type": "object", "properties": {"owner": {"type": "string"}}})
    )
    pipeline = open_pipeline(write(tmp_path, CHAIN))
    held = {"cards": {b"7": ("a",)}, "profiles": {b"a": (12.0,)}}

    def answer(ask: Ask) -> Answer:
        assert isinstance(ask, Lookup)
        found = [held[ask.source].get(key) for key in ask.keys]
        return Answer(found, [None if row else "no_such_key" for row in found])

    first, second = decided(pipeline, [event(1, None, card=7), event(2, None, card=8)], answer)
    assert (first["features"]["income"], first["rule"]) == (12.0, "all")
    assert second["features"]["income_missing"]


def test_files_are_tables_and_with_times_they_know_what_was_when(tmp_path: Path) -> None:
    rows = [
        {"customer": "a", "income": 10, "at": "2026-01-01T00:00:00Z"},
        {"customer": "a", "income": 20, "at": "2026-02-01T00:00:00Z"},
        {"customer": "b", "income": -5, "at": "2026-01-01T00:00:00Z"},
        {"customer": "c", "income": 30, "at": "2026-01-01T00:00:00Z"},
    ]
    file, table = write(tmp_path), tmp_path / "rows.ndjson"
    table.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    days = ["2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-01-15T00:00:00Z", "2026-02-02T00:00:00Z"]
    values = [event(n, "a", time=day) for n, day in enumerate(days)] + [event(9, "b"), event(10, "c")]
    timed = with_tables(open_pipeline(file), {"profiles": table}, {"profiles": "at"})
    incomes = [one["features"]["income"] for one in decided(timed, values, timed.answers.now)]
    assert incomes == [-1.0, 10.0, 10.0, 20.0, -1.0, 30.0]
    newest = with_tables(open_pipeline(file), {"profiles": table})
    incomes = [one["features"]["income"] for one in decided(newest, values, newest.answers.now)]
    assert incomes == [20.0, 20.0, 20.0, 20.0, -1.0, 30.0]


def test_commands_take_tables_from_files(tmp_path: Path) -> None:
    file, rows, events = write(tmp_path), tmp_path / "rows.csv", tmp_path / "events.ndjson"
    rows.write_text("customer,income,tier,held_from\na,10,gold,2026-01-01T00:00:00Z\na,20,gold,2027-01-01T00:00:00Z\n")
    events.write_bytes(b"\n".join([event(1, "a"), event(2, "b")]))
    options = [str(file), str(events), "--out"]
    result = CliRunner().invoke(cli, ["batch", *options, str(tmp_path / "out"), "--table", f"profiles={rows}"])
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "out" / "decisions.ndjson").read_bytes().splitlines()
    assert [orjson.loads(line)["features"]["income"] for line in lines] == [20.0, -1.0]
    timed = ["--table", f"profiles={rows}", "--table-time", "profiles=held_from"]
    out = tmp_path / "train.parquet"
    result = CliRunner().invoke(cli, ["features", *options, str(out), *timed])
    assert result.exit_code == 0, result.output
    frame = pl.read_parquet(out)
    assert frame["income"].to_list() == [10.0, -1.0]
    assert frame["income_missing"].to_list() == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--table", "profile=x"], "nothing is looked up in 'profile'"),
        (["--table-time", "profiles=x"], "there is no file of 'profiles'"),
        (["--table", "profiles"], "is not NAME="),
    ],
)
def test_what_is_wrong_with_a_table_option_is_told(options: list[str], message: str, tmp_path: Path) -> None:
    events = tmp_path / "events.ndjson"
    events.write_bytes(event(1, "a"))
    words = ["batch", str(write(tmp_path)), str(events), "--out", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(cli, words)
    assert message in f"{result.output} {result.exception}"


def test_an_archived_plan_knows_what_its_rules_read_of_tables(pipeline: Pipeline) -> None:
    [plan] = artefacts(pipeline)
    assert problems("artefact", orjson.loads(plan.body)) == []
    archived = read_plan(plan.body)
    assert archived is not None
    assert archived.reads["income_missing"] == {"income_missing"}
    assert archived.reads["tier = 'gold'"] == {"tier"}


HIDDEN = """
pipeline: looks
events: {topic: looks.events, schema: event.schema.json, time: time, sensitive: [customer]}
tables:
  cards: {topic: cards, schema: card.schema.json, key: customer}
  profiles: {topic: profiles, schema: profile.schema.json, key: owner}
features:
  owner: {lookup: cards, field: owner}
  tier: {lookup: profiles, field: tier, default: none}
  income: {lookup: profiles, field: income}
  twice: income * 2
rules: [{id: all, when: tier = 'golden-tier' AND income > 5 AND twice > 1, decide: review}, {id: rest, decide: review}]
review: {ttl: 1h, on_expiry: escalate}
actions: {escalate: looks.escalated}
"""
SECRETS = ("who-it-is", "golden-tier", "424242", "owner-name")


def test_nothing_that_a_sensitive_key_leads_to_leaves_unhashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SECRET, "x" * 32)
    (tmp_path / "card.schema.json").write_bytes(
        orjson.dumps({"type": "object", "properties": {"owner": {"type": "string"}}})
    )
    pipeline = open_pipeline(write(tmp_path, HIDDEN))
    held = {"cards": {b"who-it-is": ("owner-name",)}, "profiles": {b"owner-name": ("golden-tier", 424242.0)}}

    def answer(ask: Ask) -> Answer:
        assert isinstance(ask, Lookup)
        row = [held[ask.source].get(key) for key in ask.keys]
        return Answer(row, [None if one else "no_such_key" for one in row], "v1")

    effects = _effects(pipeline, [event(1, "who-it-is"), event(2, "who-it-is", time=7)], answer)
    [one] = sent(effects, "looks.decisions")
    assert one["rule"] == "all"
    hashed = [one["features"][name] for name in ("owner", "owner_missing", "tier", "income", "income_missing", "twice")]
    assert all(value.startswith("hash:") for value in hashed)
    assert effects.records
    left = repr((effects.records, effects.counts, effects.state))
    assert not [secret for secret in SECRETS if secret in left or secret in caplog.text]
