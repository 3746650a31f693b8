"""`streamproc init`: what it makes is good at once."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from streamproc.cli import main
from streamproc.cli.init import FILES, SCHEMA
from streamproc.pipeline import open_pipeline
from streamproc.plan.models import json_schema


def run(*args: str | Path) -> int:
    try:
        main(list(map(str, args)))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_what_it_makes_passes_check_and_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "card payments"
    assert run("init", folder) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, SCHEMA))
    assert run("check", folder / "pipeline.yaml") == 0
    assert run("test", folder / "pipeline.yaml") == 0
    assert "8 passed" in capsys.readouterr().out
    assert open_pipeline(folder / "pipeline.yaml").plan.pipeline == "card-payments"
    assert orjson.loads((folder / SCHEMA).read_bytes()) == json_schema()
    assert not any("my-pipeline" in path.read_text(encoding="utf-8") for path in folder.iterdir())


def test_its_readme_names_files_that_are_there(tmp_path: Path) -> None:
    assert run("init", tmp_path / "p") == 0
    names = re.findall(r"[a-z.]+\.(?:yaml|json|ndjson)\b", (tmp_path / "p" / "README.md").read_text(encoding="utf-8"))
    assert names
    assert all((tmp_path / "p" / name).exists() for name in names)


def test_the_sample_events_become_decisions_of_every_kind(tmp_path: Path) -> None:
    assert run("init", tmp_path / "p") == 0
    pipeline = open_pipeline(tmp_path / "p" / "pipeline.yaml")
    events = (tmp_path / "p" / "events.ndjson").read_bytes().splitlines()
    decoded = [pipeline.plan.contract.decode(event) for event in events]
    assert len(events) == 20
    assert sum(isinstance(event, dict) for event in decoded) == 18


def test_the_name_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", tmp_path / "p", "--name", "loans.v2") == 0
    assert open_pipeline(tmp_path / "p" / "pipeline.yaml").plan.topics.decisions == "loans.v2.decisions"
    assert run("init", tmp_path / "q", "--name", "my loans") == 1
    assert "'my loans' cannot be a pipeline's name" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("x")
    assert run("init", tmp_path) == 1
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert run("init", tmp_path / "mine") == 1
    assert "is a file" in capsys.readouterr().err
    assert run("init", tmp_path / "mine" / "below") == 1
    assert "cannot write" in capsys.readouterr().err


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    assert run("init", tmp_path, "--name", "p") == 0
