"""docs/pipeline-file.md and the JSON Schema: complete, and true."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from streamproc.pipeline import open_pipeline
from streamproc.plan.anatomy import fields_of, parts
from streamproc.plan.models import json_schema
from streamproc.plan.reader import read
from streamproc.testing import run_tests

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "pipeline-file.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
BROKEN = Path(__file__).parent / "broken"
SECTIONS = {
    "": "The keys at the top",
    "shadow": "model",
    "rules": "rules and fallback",
    "fallback": "rules and fallback",
}
GOOD = [ROOT / "examples/car_loan/pipeline.yaml", ROOT / "streamproc/cli/skeleton/pipeline.yaml"]


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert found, f"docs/pipeline-file.md has no section {title}"
    return found[1]


@pytest.mark.parametrize(("path", "model"), list(parts()), ids=str)
def test_every_key_is_in_the_docs(path: str, model: Any) -> None:
    rows = "".join(
        re.findall(r"^\|[^|]*\|", section(SECTIONS.get(part := path.split(".", maxsplit=1)[0], part)), re.MULTILINE)
    )
    missing = [name for name in fields_of(model) if f"`{name}`" not in rows]
    assert not missing


@pytest.mark.parametrize(("path", "model"), list(parts()), ids=str)
def test_every_key_says_what_it_is_for(path: str, model: Any) -> None:
    assert [name for name, info in fields_of(model).items() if not info.description] == []


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_of_the_docs_is_good(block: str, tmp_path: Path) -> None:
    for schema in BROKEN.glob("*.schema.json"):
        shutil.copy(schema, tmp_path)
    shutil.copytree(BROKEN / "prompts", tmp_path / "prompts")
    (tmp_path / "pipeline.yaml").write_text(block, encoding="utf-8")
    pipeline = open_pipeline(tmp_path / "pipeline.yaml", masked=False)
    assert [result for result in run_tests(pipeline) if not result.passed] == []
    jsonschema_rs.validate(json_schema(), read(tmp_path / "pipeline.yaml").data)


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.parent.name)
def test_the_schema_takes_good_files(file: Path) -> None:
    jsonschema_rs.validate(json_schema(), read(file).data)


@pytest.mark.parametrize(
    "name",
    [
        "unknown_key",
        "key_missing",
        "wrong_type",
        "boolean_as_yes",
        "duration_without_unit",
        "choice_misspelt",
        "model_of_two_kinds",
        "no_rules",
        "feature_name_with_a_dash",
        "pipeline_name_with_space",
        "reason_as_number",
    ],
)
def test_the_schema_refuses_what_check_refuses(name: str) -> None:
    assert not jsonschema_rs.is_valid(json_schema(), read(BROKEN / f"{name}.yaml").data)
