"""`streamproc features`: what a model learns from is what it will be asked with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.cli import main
from streamproc.core.outcomes.labels import Labels
from streamproc.core.outcomes.outcome import Outcome
from streamproc.core.partitioner import partitions
from streamproc.core.processor import NOTHING_SEEN, Answer
from streamproc.core.processor import run as run_processor
from streamproc.core.repartition import RepartitionProcessor
from streamproc.core.state import Tables
from streamproc.offline import batch_of
from streamproc.pipeline import SECRET, open_before_models
from streamproc.training import History

SCHEMA = {
    "type": "object",
    "required": ["id", "card", "amount", "at"],
    "properties": {
        "id": {"type": "integer"},
        "card": {"type": "string"},
        "amount": {"type": "number"},
        "at": {"type": "string"},
        "country": {"type": ["string", "null"]},
        "fraud": {"type": ["boolean", "null"]},
        "note": {"type": "string"},
    },
}
PIPELINE = """
pipeline: p
events: {{topic: e, schema: event.schema.json, key: card, time: at{events}}}
features: {{large: amount > 100, abroad: country <> 'NL', {features}}}
model: {{onnx: nothing.onnx, inputs: [amount, large]}}
rules: [{{id: all, when: id > 5, decide: review}}, {{id: rest, decide: approve}}]
actions: {{approve: a}}
"""
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "event.schema.json").write_bytes(orjson.dumps(SCHEMA))
    return tmp_path


def pipeline(folder: Path, events: str = "", features: str = "half: amount / 2") -> Path:
    file = folder / "pipeline.yaml"
    file.write_text(PIPELINE.format(events=events, features=features), encoding="utf-8")
    return file


def event(number: int, **changes: Any) -> dict[str, Any]:
    at = (START + timedelta(minutes=number)).isoformat()
    made = {"id": number, "card": f"c{number % 3}", "amount": 60.0 * number, "at": at, "country": "NL"}
    return made | changes


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    try:
        main(["features", *map(str, args)])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def made(capsys: pytest.CaptureFixture[str], folder: Path, rows: list[Any], *args: str | Path) -> pl.DataFrame:
    """The file that the command makes of rows with the pipeline in the folder."""
    out = folder / "train.parquet"
    code, _, told = run(capsys, folder / "pipeline.yaml", write(folder / "in.ndjson", rows), "--out", out, *args)
    assert code == 0, told
    return pl.read_parquet(out)


@pytest.mark.parametrize("lanes", ["1", "3"])
def test_features_are_typed_and_in_the_order_of_the_rows(
    lanes: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline(folder)
    rows = [event(number) for number in range(20)]
    found = made(capsys, folder, rows, "--lanes", lanes)
    assert found.columns == ["row", "key", "event_time", "large", "abroad", "half", "amount", "id"]
    assert found["row"].to_list() == list(range(20))
    assert found["key"].to_list() == [row["card"] for row in rows]
    assert found["event_time"].to_list() == [START + timedelta(minutes=number) for number in range(20)]
    assert found["large"].to_list() == [row["amount"] > 100 for row in rows]
    assert found["half"].to_list() == [row["amount"] / 2 for row in rows]


def test_all_fields_are_there_where_they_are_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(folder)
    assert set(SCHEMA["properties"]) < set(made(capsys, folder, [event(1)], "--fields").columns)  # type: ignore[call-overload]


def test_dead_letters_are_told_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(folder)
    rows = write(folder / "in.ndjson", [event(0), b"{", event(2, amount="much"), event(3)])
    out, letters = folder / "train.parquet", folder / "letters.ndjson"
    code, told, _ = run(capsys, folder / "pipeline.yaml", rows, "--out", out, "--dead-letters", letters)
    assert code == 0
    assert "4 rows" in told and "2 events, 2 dead letters" in told and "contract_type 1" in told
    assert pl.read_parquet(out)["row"].to_list() == [0, 3]
    kept = [orjson.loads(line) for line in letters.read_bytes().splitlines()]
    assert [letter["headers"]["sp-offset"] for letter in kept] == ["1", "2"]


def test_sensitive_columns_leave_as_hashes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "x" * 32)
    pipeline(folder, ", sensitive: [card, country]")
    rows = [event(0), event(3, country="DE"), event(6, country=None)]
    found = made(capsys, folder, rows, "--fields")
    for name in ("key", "card", "country", "abroad"):
        assert all(value is None or value.startswith("hash:") for value in found[name].to_list())
    assert found["key"].n_unique() == 1 and found["country"].null_count() == 1
    assert found["amount"].to_list() == [row["amount"] for row in rows]


def test_an_outcome_is_that_of_the_newest_event_before_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(folder)

    def said(minute: float, value: Any, **whose: Any) -> dict[str, Any]:
        return {**whose, "value": value, "time": (START + timedelta(minutes=minute)).isoformat()}

    outcomes = write(
        folder / "outcomes.ndjson",
        [
            said(3.5, "good", key="c0"),  # of event 3: 6 has not happened yet
            said(9, "bad", key="c0"),
            said(4, "bad", key="c0"),  # it revises what was said of event 3
            said(0.5, "good", key="c1"),  # before any event with that key
            said(50, True, key="c2"),
        ],
    )
    rows = [event(number) for number in range(9)]
    found = made(capsys, folder, rows, "--outcomes", outcomes)
    assert dict(found.drop_nulls("outcome").select("row", "outcome").iter_rows()) == {3: "bad", 6: "bad", 8: "true"}
    assert found.filter(row=3)["outcome_time"].item() == START + timedelta(minutes=4)
    early = made(capsys, folder, rows, "--outcomes", outcomes, "--known-by", "2026-01-01T00:03:30")
    assert dict(early.drop_nulls("outcome").select("row", "outcome").iter_rows()) == {3: "good"}


MINUTES = st.integers(0, 30)
KEYS = st.sampled_from(["a", "b", "c"])


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, MINUTES)), st.lists(st.tuples(KEYS, MINUTES, st.integers(0, 3))), st.integers(1, 7))
def test_labels_are_what_a_plain_loop_finds(
    events: list[tuple[str, int]], said: list[tuple[str, int, int]], size: int
) -> None:
    outcomes = [Outcome(key=key, value=value, time=START + timedelta(minutes=at)) for key, at, value in said]
    labels = Labels(outcomes)
    frame = pl.DataFrame(
        [(row, key, START + timedelta(minutes=at)) for row, (key, at) in enumerate(events)],
        {"row": pl.Int64, "key": pl.String, "time": pl.Datetime("us", "UTC")},
        orient="row",
    )
    for some in frame.iter_slices(size):
        ids = [f"0-{row}" for row in some["row"].to_list()]
        labels.see(some["row"].to_numpy(), some["key"].to_list(), some["time"], ids)
    expected = dict[int, tuple[int, int, str]]()
    for number, (key, at, value) in enumerate(said):
        before = [(when, row) for row, (own, when) in enumerate(events) if own == key and when <= at]
        if before:
            _, row = max(before)
            expected[row] = max(expected.get(row, (-1, -1, "")), (at, number, str(value)))
    found = {row: value for row, value, _ in labels.table().iter_rows()}
    assert found == {row: value for row, (_, _, value) in expected.items()}


def test_an_outcome_may_name_the_decision(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = pipeline(folder)
    rows = [event(number) for number in range(3)]
    [_, second, _] = History(open_before_models(file), START).take([orjson.dumps(row) for row in rows]).ids
    late = (START + timedelta(days=90)).isoformat()
    outcomes = write(folder / "outcomes.ndjson", [{"id": second, "value": "bad", "time": late}])
    found = made(capsys, folder, rows, "--outcomes", outcomes)
    assert found["outcome"].to_list() == [None, "bad", None]


def test_a_field_of_the_rows_may_be_the_outcome(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(folder)
    rows = [event(0, fraud=True), b"{", event(2, fraud=False), event(3)]
    found = made(capsys, folder, rows, "--outcome-field", "fraud", "--fields")
    assert found["outcome"].to_list() == ["true", "false", None] and "note" in found.columns
    assert "fraud" not in found.columns
    rows = [event(0, label="bad"), event(1, label=2)]
    assert made(capsys, folder, rows, "--outcome-field", "label")["outcome"].to_list() == ["bad", "2"]


def test_the_field_that_is_the_outcome_may_stand_in_an_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = {"type": "object", "properties": {"fraud": {"type": "boolean"}, "by": {"type": "string"}}}
    changed = SCHEMA | {"properties": {**SCHEMA["properties"], "said": schema}}  # type: ignore[dict-item]
    (folder / "event.schema.json").write_bytes(orjson.dumps(changed))
    pipeline(folder, features="by_bank: said.by = 'bank'")
    rows = [
        event(0, said={"fraud": True, "by": "bank"}),
        event(1, said={"by": "bank"}),
        event(2, said=None),
        event(3, **{"truth.fraud": False, "truth": {"fraud": True}}),
        event(4, truth={"fraud": False}),
    ]
    found = made(capsys, folder, rows[:2], "--outcome-field", "said.fraud", "--fields")
    assert found["outcome"].to_list() == ["true", None] and "said.fraud" not in found.columns
    assert found["by_bank"].to_list() == [True, True]
    found = made(capsys, folder, rows[3:], "--outcome-field", "truth.fraud")
    assert found["outcome"].to_list() == ["false", "false"]
    code, _, told = run(
        capsys, folder / "pipeline.yaml", folder / "in.ndjson", "--out", folder / "t", "--outcome-field", "said.by"
    )
    assert code == 1 and "`said.by` is read to decide events" in told


@pytest.mark.parametrize("field", ["country", "amount", "id", "at"])
def test_an_outcome_that_anything_reads_is_refused(
    field: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, rows = pipeline(folder), write(folder / "in.ndjson", [event(0)])
    code, _, told = run(capsys, file, rows, "--out", folder / "t.parquet", "--outcome-field", field)
    assert code == 1
    assert f"`{field}` is read to decide events" in told and "see the future" in told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--outcome-field", "label"], "`label` is no outcome"),
        (["--known-by", "1d"], "--known-by is about outcomes"),
    ],
)
def test_nothing_is_left_behind_by_what_goes_wrong(
    args: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, rows = pipeline(folder), write(folder / "in.ndjson", [event(0), event(1, label=[1])])
    (folder / "train.parquet").write_text("before")
    there = sorted(folder.iterdir())
    code, _, err = run(
        capsys, file, rows, "--out", folder / "train.parquet", "--dead-letters", folder / "letters.ndjson", *args
    )
    assert code == 1 and told in err
    assert sorted(folder.iterdir()) == there
    assert (folder / "train.parquet").read_text() == "before"


def test_rows_of_which_none_is_an_event_make_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, rows = pipeline(folder), write(folder / "in.ndjson", [b"{", b"["])
    code, _, err = run(capsys, file, rows, "--out", folder / "t.parquet")
    assert code == 1 and "no row of" in err
    assert not (folder / "t.parquet").exists()


def test_what_is_looked_up_is_what_was_known_then(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = {"type": "object", "properties": {"limit": {"type": "number"}}}
    (folder / "profile.schema.json").write_bytes(orjson.dumps(profile))
    file = pipeline(folder, features="limit: {lookup: profiles, field: limit}")
    text = file.read_text() + "tables: {profiles: {topic: p.profiles, schema: profile.schema.json, key: card}}\n"
    file.write_text(text, encoding="utf-8")
    known = [
        {"card": "c0", "limit": 1, "since": START.isoformat()},
        {"card": "c0", "limit": 2, "since": (START + timedelta(minutes=4)).isoformat()},
    ]
    rows, table = [event(number) for number in range(7)], write(folder / "profiles.ndjson", known)
    found = made(capsys, folder, rows, "--table", f"profiles={table}", "--table-time", "profiles=since")
    assert found["limit"].to_list() == [1, None, None, 1, None, None, 2]
    assert found["limit_missing"].to_list() == [False, True, True, False, True, True, False]
    code, _, err = run(capsys, file, folder / "in.ndjson", "--out", folder / "other.parquet")
    assert code == 1 and "there is no file of profiles" in err
    code, _, err = run(
        capsys, file, folder / "in.ndjson", "--out", folder / "other.parquet", "--table", f"profiles={table}"
    )
    assert code == 0 and "as it is now" in err


def test_what_is_read_is_not_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, rows = pipeline(folder), write(folder / "in.ndjson", [event(0)])
    outcomes = write(folder / "outcomes.ndjson", [])
    (folder / "link").symlink_to(rows)
    there = {path: path.read_bytes() for path in folder.iterdir()}
    for out in (rows, folder / "link", folder / "." / "in.ndjson", file, outcomes):
        code, _, told = run(capsys, file, rows, "--out", out, "--outcomes", outcomes)
        assert code == 1 and "is read, and would be written over" in told
    letters = folder / "t.parquet"
    code, _, told = run(capsys, file, rows, "--out", letters, "--dead-letters", letters)
    assert code == 1 and "written over" in told
    assert {path: path.read_bytes() for path in folder.iterdir()} == there


@pytest.mark.parametrize("name", ["train[1].parquet", "tr*in?.parquet", "a[!b]/c[d]*.parquet"])
def test_names_are_no_patterns(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = pipeline(folder), folder / name
    out.parent.mkdir(exist_ok=True)
    rows = folder / "in[1]*.csv"
    pl.DataFrame([event(number) for number in range(3)]).write_csv(rows)
    code, _, told = run(capsys, file, rows, "--out", out)
    assert code == 0, told
    assert pl.read_parquet(out, glob=False)["row"].to_list() == [0, 1, 2]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"card": st.sampled_from(["a", "b", "c"])},
            optional={"who": st.sampled_from([{}, {"id": None}, {"id": "x"}, {"id": ""}, {"id": "ü"}])},
        ),
        min_size=1,
        max_size=12,
    ),
    lanes=st.integers(1, 4),
    size=st.integers(1, 5),
)
def test_events_are_in_the_lane_that_the_repartition_agent_brings_them_to(
    rows: list[dict[str, Any]], lanes: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "repartitioned"
    folder.mkdir(exist_ok=True)
    who = {"type": "object", "properties": {"id": {"type": ["string", "null"]}}}
    properties = {**SCHEMA["properties"], "who": who}  # type: ignore[dict-item]
    (folder / "event.schema.json").write_bytes(orjson.dumps(SCHEMA | {"properties": properties}))
    counts = "everyone: CASE WHEN amount >= 0 THEN 'all' ELSE 'none' END, seen: {by: everyone, agg: count}"
    file = pipeline(folder, ", repartition_by: who.id", counts)
    values = [orjson.dumps(event(number, **row)) for number, row in enumerate(rows)]
    history = History(open_before_models(file), START + timedelta(days=1), lanes=lanes)
    found = [history.take(values[at : at + size]).columns["seen"] for at in range(0, len(values), size)]
    plan = open_before_models(file).plan
    assert plan.events.source is not None
    agent = RepartitionProcessor("who.id", plan.events.topic)
    before = batch_of("e", values, keys=[row["card"].encode() for row in rows])
    [sent] = run_processor(agent.process(before, Tables(()), NOTHING_SEEN, START), lambda ask: Answer([], [])).records
    lane_of = partitions(sent.keys, lanes, 0).tolist()
    expected = [lane_of[:number].count(lane) for number, lane in enumerate(lane_of)]
    assert pl.concat(found).to_list() == expected
