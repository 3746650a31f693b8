"""`streamproc check`: what it prints and how it ends."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from streamproc.cli import main
from streamproc.plan.models import json_schema

ROOT = Path(__file__).parents[2]
GOOD = ROOT / "examples" / "car_loan" / "pipeline.yaml"
BROKEN = Path(__file__).parent / "broken"


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    try:
        main(["check", *map(str, args)])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_good_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, GOOD)
    assert (code, err) == (0, "")
    assert out.startswith(f"{GOOD}: good: 11 features, 13 rules, 16 tests, plan ")
    assert out.count("\n") == 1


def test_problems_are_places_and_remedies(capsys: pytest.CaptureFixture[str]) -> None:
    file = BROKEN / "unknown_column.yaml"
    code, out, err = run(capsys, file)
    assert (code, out) == (1, "")
    assert err == f"{file}:6:11: unknown column 'amout'\n    did you mean 'amount'?\n1 problem in the pipeline file\n"


def test_problems_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    file = BROKEN / "dozen_mistakes.yaml"
    code, out, err = run(capsys, file, "--json")
    said: dict[str, Any] = orjson.loads(out)
    assert (code, err, said["ok"]) == (1, "", False)
    assert len(said["problems"]) >= 12
    assert set(said["problems"][0]) == {"file", "line", "column", "message", "remedy"}
    places = [(problem["line"], problem["column"]) for problem in said["problems"]]
    assert places == sorted(places)


def test_a_good_file_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, GOOD, "--json")
    said = orjson.loads(out)
    assert code == 0
    assert (said["ok"], said["features"], said["rules"], said["tests"]) == (True, 11, 13, 16)


def test_the_schema_needs_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--schema")
    assert code == 0
    assert orjson.loads(out) == json_schema()


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, tmp_path / "none.yaml")
    assert code == 1
    assert "No such file" in err and "streamproc init" in err
    code, out, _ = run(capsys, tmp_path, "--json")
    assert code == 1
    assert "Is a directory" in orjson.loads(out)["problems"][0]["message"]


def test_no_file_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys)
    assert code == 2
    assert "FILE" in err


def test_sensitive_fields_need_no_secret_to_be_checked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMPROC_SENSITIVE_KEY", raising=False)
    (tmp_path / "event.schema.json").write_bytes((BROKEN / "event.schema.json").read_bytes())
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        "pipeline: p\nevents: {topic: e, schema: event.schema.json, sensitive: [id]}\n"
        "rules: [{id: a, decide: review}]\n"
    )
    assert run(capsys, file)[0] == 0


def test_what_is_perhaps_not_meant_is_a_warning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copytree(GOOD.parent, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "pipeline.yaml"
    file.write_text(GOOD.read_text().replace("on_expiry: escalate", "on_expiry: decline"))
    code, _, err = run(capsys, file)
    assert code == 0
    assert "warning: where nobody answers in time, `decline` is decided" in err
    _, out, _ = run(capsys, file, "--json")
    told = orjson.loads(out)
    assert told["ok"] and "on_expiry: escalate" in told["warnings"][0]["remedy"]


@pytest.mark.parametrize(("field", "warned"), [("id", False), ("country", True), ("card.brand", True)])
def test_ids_that_may_be_missing_are_a_warning(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, field: str, warned: bool
) -> None:
    shutil.copy(Path(__file__).parent / "broken" / "event.schema.json", tmp_path)
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        f"pipeline: p\nevents: {{topic: e, schema: event.schema.json, id: {field}, dedupe: 24h}}\n"
        "rules: [{id: a, decide: review}]\n"
    )
    code, _, err = run(capsys, file)
    assert code == 0
    assert ("such an event is never a duplicate" in err) == warned
