"""`streamproc test`: the tests block through the real processor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from streamproc.cli import main
from streamproc.errors import UserError
from streamproc.pipeline import SECRET, open_pipeline
from streamproc.testing import run_tests, same

ROOT = Path(__file__).parents[2]
GOOD = ROOT / "examples" / "car_loan" / "pipeline.yaml"
CONTRACT = Path(__file__).parent / "broken" / "event.schema.json"
PIPELINE = """
pipeline: p
events: {topic: e, schema: event.schema.json, key: id, time: time, max_age: 1h, sensitive: [country]}
params: {large: 1000}
features: {abroad: country <> 'NL', third: amount / 3}
rules:
  - {id: large, when: amount > large AND abroad, decide: review, reason: P01}
  - {id: seen, when: new_customer, observe: true}
  - {id: rest, decide: approve}
fallback: [{id: late, when: amount < 10, decide: approve}, {id: later, decide: review}]
actions: {approve: a}
tests:
"""
EVENT = "event: {id: a, amount: 2000, country: DE, time: 2024-01-01T00:00:00Z}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "event.schema.json").write_bytes(CONTRACT.read_bytes())
    return tmp_path


def write(folder: Path, *tests: str) -> Path:
    file = folder / "pipeline.yaml"
    items = [f"  - {{name: t{n}, {test}}}" for n, test in enumerate(tests)]
    file.write_text(PIPELINE + "\n".join(items) + "\n", encoding="utf-8")
    return file


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    try:
        main(["test", *map(str, args)])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_example_passes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, GOOD)
    assert code == 0
    assert out.count("pass ") == 16
    assert out.endswith("16 passed\n")


@pytest.mark.parametrize(
    "test",
    [
        f"{EVENT}, expect: {{decision: review, rules: [large, rest], reasons: [P01], would_be: approve}}",
        f"{EVENT}, expect: {{features: {{third: 666.6666666666666, abroad: true}}, score: null, confidence: null}}",
        f"{EVENT}, expect: {{undecided: [seen], observed: []}}",
        f"{EVENT}, age: 1h, expect: {{tier: automatic}}",
        f"{EVENT}, age: 3601s, expect: {{tier: 'fallback:later', fallback_reason: stale, rule: later}}",
        "event: {id: a, amount: 5, time: 2024-01-01T00:00:00Z}, age: 2h, expect: {tier: 'fallback:late'}",
        "event: {id: a, amount: 5, time: yesterday}, expect: {dead_letter: no_event_time}",
        "event: {id: a, amount: -5, time: x}, expect: {dead_letter: contract_minimum}",
        f"event: {{id: a, amount: 5, age_days: {10**30}, time: x}}, expect: {{dead_letter: integer_out_of_range}}",
    ],
)
def test_what_holds_passes(folder: Path, test: str) -> None:
    (result,) = run_tests(open_pipeline(write(folder, test), masked=False))
    assert result.passed, result


@pytest.mark.parametrize(
    ("expect", "what", "got"),
    [
        ("decision: approve", "decision", "review"),
        ("rules: [large]", "rules", ["large", "rest"]),
        ("features: {third: 666.6667}", "features.third", 2000 / 3),
        ("features: {abroad: 1}", "features.abroad", True),
        ("score: 0.5", "score", None),
        ("rule: null", "rule", "large"),
        ("dead_letter: not_json", "dead_letter", "decision review"),
    ],
)
def test_what_does_not_hold_is_a_difference(folder: Path, expect: str, what: str, got: Any) -> None:
    (result,) = run_tests(open_pipeline(write(folder, f"{EVENT}, expect: {{{expect}}}"), masked=False))
    assert [(one.what, one.got) for one in result.differences] == [(what, got)]


def test_a_failure_says_what_and_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(folder, f"{EVENT}, expect: {{decision: approve}}", f"{EVENT}, expect: {{decision: review}}")
    code, out, _ = run(capsys, file)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 1
    assert lines[0] == f"FAIL t0 {file}:{PIPELINE.count(chr(10)) + 1}"
    assert "decision approve review" in lines
    assert "why: rule large was the first that matched" in lines
    assert "large matches amount > large AND abroad" in lines
    assert "abroad = true, amount = 2000.0, large = 1000" in lines
    assert "seen unknown new_customer" in lines
    assert lines[-2:] == ["pass t1", "1 passed, 1 failed"]


def test_a_refused_event_says_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(folder, "event: {id: a, amount: 5, time: yesterday}, expect: {decision: approve}")
    code, out, _ = run(capsys, file)
    assert code == 1
    assert "no_event_time" in out and "$.time" in out


def test_json_has_every_outcome(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(folder, f"{EVENT}, expect: {{decision: approve}}", f"{EVENT}, expect: {{decision: review}}")
    code, out, _ = run(capsys, file, "--json")
    said = orjson.loads(out)
    assert (code, said["passed"], said["failed"]) == (1, 1, 1)
    first, second = said["tests"]
    assert first["differences"] == [{"what": "decision", "expected": "approve", "got": "review"}]
    assert second["passed"] and second["decision"]["rule"] == "large"


def test_only_some(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(folder, f"{EVENT}, expect: {{decision: approve}}", f"{EVENT}, expect: {{decision: review}}")
    code, out, _ = run(capsys, file, "--only", "t1")
    assert (code, out) == (0, "pass t1\n1 passed\n")
    code, _, err = run(capsys, file, "--only", "t9")
    assert code == 1
    assert "no test 't9'" in err and "`t1`" in err


def test_no_tests_at_all_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "pipeline.yaml"
    file.write_text(PIPELINE.removesuffix("tests:\n"), encoding="utf-8")
    code, _, err = run(capsys, file)
    assert code == 1
    assert "has no tests" in err


def test_a_model_that_is_slow_or_raises_is_an_answer(folder: Path) -> None:
    (folder / "raising_model.py").write_text("def score(columns):\n    raise ValueError\n", encoding="utf-8")
    text = PIPELINE.replace("params:", "model: {python: 'raising_model:score', inputs: [amount]}\nparams:")
    test = f"  - {{name: one, {EVENT}, expect: {{decision: review, score: null}}}}\n"
    (folder / "pipeline.yaml").write_text(text + test, encoding="utf-8")
    (result,) = run_tests(open_pipeline(folder / "pipeline.yaml", masked=False))
    assert result.passed
    assert result.outcome.decision is not None
    assert result.outcome.decision["score_reason"] == "model_error"


def test_only_what_sends_nothing_opens_a_pipeline_without_its_key(folder: Path) -> None:
    file = write(folder, f"{EVENT}, expect: {{decision: review}}")
    for environ in ({}, {SECRET: "short"}):
        with pytest.raises(UserError, match=SECRET):
            open_pipeline(file, environ)
        opened = open_pipeline(file, environ, masked=False)
        assert opened.plan.events.sensitive == {"country"}
        assert opened.processor.plan.events.sensitive == frozenset()


def test_what_is_the_same() -> None:
    assert same(0.3, 0.1 + 0.2) and same(3, 3.0) and same(["a"], ["a"]) and same(None, None)
    assert not same(1, True) and not same("1", 1) and not same(0.3, 0.3001) and not same([], None)


def test_a_test_says_how_columns_drift_and_what_automation_may_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(GOOD.parent, tmp_path / "car_loan")
    file = tmp_path / "car_loan" / "pipeline.yaml"
    text, drifts = GOOD.read_text(encoding="utf-8"), "    drift: {score: drifting}\n"
    assert drifts in text
    for instead, code in ((drifts, 0), ("    drift: {score: warning}\n", 1), ("    mode: review-all\n", 1)):
        file.write_text(text.replace(drifts, instead), encoding="utf-8")
        ended, out, _ = run(capsys, file, "--only", "*trusted less")
        assert ended == code
        assert ("unsure-in-drift" in out) == bool(code)  # what was expected, where it is not met
    people = text.replace(drifts, "    mode: review-all\n").replace("rule: unsure-in-drift, would", "rule: null, would")
    file.write_text(people, encoding="utf-8")
    assert run(capsys, file, "--only", "*trusted less")[0] == 0
