"""Tables from files: keys, refused rows, deletions and names are what they are online."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.table import RowReader
from streamproc.errors import UserError
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.table_files import with_tables
from tests.fast.lookup_plans import PIPELINE, TABLES, event, write
from tests.fast.plans import sent

BY_CARD = ("key: customer}", "key: card}")
BEFORE = "2025-01-01T00:00:00Z"


def incomes(pipeline: Pipeline, values: list[bytes]) -> list[float | None]:
    """What was looked up for each event, ``None`` where that was nothing."""
    effects = Offline(pipeline.processor, pipeline.answers.now).process(batch_of("looks.events", values))
    shown = [one["features"] for one in sent(effects, "looks.decisions")]
    return [None if one["income_missing"] else one["income"] for one in shown]


def looked_up(folder: Path, rows: Path, values: list[bytes], *changes: tuple[str, str], **times: str) -> list[Any]:
    file = write(folder, PIPELINE, TABLES, *changes)
    return incomes(with_tables(open_pipeline(file), {"profiles": rows}, times), values)


def ndjson(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in rows))
    return path


CHANGES = st.sampled_from(
    [None, {"income": -1}, {"tier": "x"}, {"income": "much"}, {"income": 5}, {"income": 6, "tier": "y"}]
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return open_pipeline(write(tmp_path_factory.mktemp("plain")))


@settings(deadline=None, max_examples=50)
@given(changes=st.lists(st.tuples(st.sampled_from("abc"), CHANGES), max_size=12))
def test_a_file_comes_to_what_a_topic_with_the_same_records_does(
    changes: list[tuple[str, Any]], plain: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> None:
    [source] = plain.plan.sources
    assert source.contract is not None
    keys, values = [key.encode() for key, _ in changes], [None if c is None else orjson.dumps(c) for _, c in changes]
    online = RowReader(source.contract, tuple(source.fields)).changes(keys, values).rows
    at = {"held_from": BEFORE}
    rows = ndjson(
        tmp_path_factory.getbasetemp() / "rows.ndjson", [{"customer": key, **(row or {}), **at} for key, row in changes]
    )
    events = [event(number, key) for number, key in enumerate("abc")]
    expected = [None if (row := online.get(key.encode())) is None else row[0] for key in "abc"]
    assert incomes(with_tables(plain, {"profiles": rows}), events) == expected
    timed = with_tables(plain, {"profiles": rows}, {"profiles": "held_from"})
    assert incomes(timed, events) == expected


def test_a_refused_row_and_a_deletion_hold_from_their_time_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = [
        {"customer": "a", "income": 10, "at": "2026-01-01T00:00:00Z"},
        {"customer": "a", "income": -5, "at": "2026-01-02T00:00:00Z"},
        {"customer": "a", "income": 20, "at": "2026-01-03T00:00:00Z"},
        {"customer": "a", "income": None, "at": "2026-01-04T00:00:00Z"},
        {"customer": "b", "income": 30, "at": "2026-01-01T00:00:00Z"},
        {"customer": "b", "at": "2026-01-03T00:00:00Z"},
    ]
    frame, rows = pl.DataFrame(history, {"customer": pl.String, "income": pl.Int64, "at": pl.String}), tmp_path / "rows"
    frame.write_csv(rows.with_suffix(".csv"))
    frame.write_parquet(rows.with_suffix(".parquet"))
    ndjson(rows.with_suffix(".ndjson"), history)
    values = [event(n, who, time=f"2026-01-0{n}T12:00:00Z") for who in "ab" for n in range(1, 5)]
    for kind in (".csv", ".parquet", ".ndjson"):
        caplog.clear()
        found = looked_up(tmp_path, rows.with_suffix(kind), values, profiles="at")
        assert found == [10.0, None, 20.0, None, 30.0, 30.0, None, None]
        assert "1 rows do not satisfy the contract" in caplog.text


def test_keys_are_equal_where_they_are_online(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("customer,income\n007,1\n7,2\n1.0,3\ntrue,4\n", encoding="utf-8")
    names = ["007", "7", "1.0", "1", "true"]
    assert looked_up(tmp_path, rows, [event(n, who) for n, who in enumerate(names)]) == [1.0, 2.0, 3.0, None, 4.0]


@pytest.mark.parametrize("form", ["csv", "parquet", "ndjson", "gaps"])
def test_whole_numbers_are_keys_however_a_file_has_them(form: str, tmp_path: Path) -> None:
    rows = tmp_path / f"rows.{form}"
    frame = pl.DataFrame({"card": [1.0, 2.0, 2.5, 1e15], "income": [1, 2, 3, 4]})
    match form:
        case "csv":
            frame.write_csv(rows)
        case "parquet":
            frame.write_parquet(rows)
        case "ndjson":
            frame.write_ndjson(rows)
        case _:
            rows = tmp_path / "rows.csv"
            rows.write_text("card,income\n1,1\n2.00,2\n2.5,3\n1000000000000000,4\n", encoding="utf-8")
    values = [event(n, None, card=card) for n, card in enumerate([1, 2, 3, 10**15])]
    assert looked_up(tmp_path, rows, values, BY_CARD) == [1.0, 2.0, None, 4.0]


def test_a_number_that_is_too_large_for_json_is_told(tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    pl.DataFrame({"customer": ["a"], "income": pl.Series([2**80], dtype=pl.Int128)}).write_parquet(rows)
    with pytest.raises(UserError, match=r"rows\.parquet has a value that is none in JSON: .*64-bit"):
        looked_up(tmp_path, rows, [event(1, "a")])


@pytest.mark.parametrize("name", ["rows[1].csv", "rows*.parquet", "r?ws[a-z].csv"])
def test_the_name_of_a_file_is_no_pattern(name: str, tmp_path: Path) -> None:
    frame, rows = pl.DataFrame({"customer": ["a"], "income": [1]}), tmp_path / name
    (frame.write_csv if rows.suffix == ".csv" else frame.write_parquet)(rows)
    other = pl.DataFrame({"customer": ["a"], "income": [2]})
    other.write_csv(tmp_path / "rows1.csv")
    other.write_parquet(tmp_path / "rows2.parquet")
    assert looked_up(tmp_path, rows, [event(1, "a")]) == [1.0]


def test_of_rows_with_one_time_the_last_holds_and_later_ones_are_not_seen(tmp_path: Path) -> None:
    history = [
        {"customer": "a", "income": 1, "at": "2026-01-01T00:00:00Z"},
        {"customer": "b", "income": 9, "at": "2999-01-01T00:00:00Z"},
        {"customer": "a", "income": 2, "at": "2026-01-01T00:00:00+00:00"},
        {"customer": "a", "income": 3, "at": "2025-12-31T23:59:59.999999Z"},
        {"customer": "", "income": 4, "at": BEFORE},
    ]
    values = [event(n, who) for n, who in enumerate(["a", "b", "", None, "a"])]
    rows = ndjson(tmp_path / "rows.ndjson", history)
    assert looked_up(tmp_path, rows, values, profiles="at") == [2.0, None, 4.0, None, 2.0]


@pytest.mark.parametrize("row", [{"customer": None, "income": 1}, {"income": 1}, [], b"{"])
def test_a_row_without_a_key_is_told(row: Any, tmp_path: Path) -> None:
    rows = ndjson(tmp_path / "rows.ndjson", [row])
    with pytest.raises(UserError, match="a row has no field `customer`"):
        looked_up(tmp_path, rows, [event(1, "a")])


@pytest.mark.parametrize("at", [None, "soon", {}])
def test_a_row_without_its_time_is_told(at: Any, tmp_path: Path) -> None:
    rows = ndjson(tmp_path / "rows.ndjson", [{"customer": "a", "income": 1, "at": at}])
    with pytest.raises(UserError, match="not every row has a time in its field `at`"):
        looked_up(tmp_path, rows, [event(1, "a")], profiles="at")
