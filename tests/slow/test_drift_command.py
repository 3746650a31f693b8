"""``streamproc drift`` on real loans: a baseline that is kept, and a backtest that is right."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import orjson
import polars as pl
import pytest
from click.testing import CliRunner, Result

from streamproc.cli import cli
from streamproc.core.drift.baseline import loads
from streamproc.errors import EnvironmentFault, UserError
from streamproc.sample import car_loans, example
from tests.kafka.car_loan import bare, loans

REFERENCE, SHIFT = 40_000, 75_000
DRIFT = """
drift:
  reference: reference.parquet
  false_alarms: 1 per 1000000 events
  watch: [car_value, salary_range, debt_to_income_ratio, loan_length, repaid_loan_on_prev_car, size_of_downpayment,
          driver_tenure, score, decision, dead_letters]

rules:
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, watching its fields; the loans up to row 40,000 as its reference, and all others to try it on."""
    folder = tmp_path_factory.mktemp("loans") / "car_loan"
    shutil.copytree(example("car_loan"), folder)
    file = folder / "pipeline.yaml"
    text = file.read_text()
    before, after = text[: text.index("\ndrift:")], text[text.index("\nrules:\n") + len("\nrules:\n") :]
    file.write_text(before + DRIFT + after)
    whole = loans()
    whole[:REFERENCE].write_parquet(folder / "reference.parquet")
    whole[REFERENCE:].write_parquet(folder / "rest.parquet")
    return folder


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["drift", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_a_backtest_on_real_loans_is_silent_until_they_change_and_then_early(folder: Path) -> None:
    file, source = str(folder / "pipeline.yaml"), str(folder / "rest.parquet")
    told = run("backtest", file, source, "--truth", str(SHIFT - REFERENCE), "--no-compare", "--json")
    found = orjson.loads(told.stdout)
    assert found["events"] == 60_000
    assert found["false_alarms"] == 0
    first = {}
    for monitor, delay in found["delays"].items():
        first.setdefault(monitor.split("/")[0], delay)
    assert first["car_value"] <= 250
    assert first["score"] <= 500
    assert not {"debt_to_income_ratio", "size_of_downpayment", "driver_tenure"} & set(first)
    assert len({alarm["incident"]["id"] for alarm in found["alarms"]}) == 1


def test_accuracy_and_errors_stand_beside_it_where_rows_say_what_came_true(folder: Path) -> None:
    own = folder.parent / "with_outcomes"
    shutil.copytree(folder, own)
    pipeline = own / "pipeline.yaml"
    pipeline.write_text(pipeline.read_text().replace("  watch: [", "  outcome: repaid\n  watch: ["))
    files = car_loans()
    came = pl.concat([pl.read_csv(file)["repaid"].cast(pl.Int64) for file in (files.reference, files.outcomes)])
    whole = loans().with_columns(repaid=came)
    whole[:REFERENCE].write_parquet(own / "reference.parquet")
    whole[REFERENCE:].write_parquet(own / "rest.parquet")
    arguments = str(pipeline), str(own / "rest.parquet"), "--truth", str(SHIFT - REFERENCE), "--no-compare"
    found = orjson.loads(run("backtest", *arguments, "--json").stdout)
    before, after = found["accuracy"], found["accuracy_after"]
    assert (before["outcomes"], after["outcomes"]) == (SHIFT - REFERENCE, 60_000 - (SHIFT - REFERENCE))
    assert abs(before["realised"] - before["expected"]) < 0.01
    assert after["expected"] < before["expected"] - 0.01
    assert after["realised"] < before["realised"] - 0.01
    assert set(found["errors"]) == {"ADWIN", "HDDM_A"}
    assert min(found["errors"]["ADWIN"]) > SHIFT - REFERENCE
    first = min(delay for monitor, delay in found["delays"].items() if monitor.startswith("score/"))
    assert first < min(found["errors"]["ADWIN"]) - (SHIFT - REFERENCE)
    told = run("backtest", *arguments).output
    assert re.search(r"^before: accuracy [\d.]+% of 35,000 outcomes, expected [\d.]+%$", told, re.M)
    assert re.search(r"^errors, HDDM_A, were outcomes there at once: ", told, re.M)
    damaged = whole[REFERENCE:].with_columns(repaid=pl.lit("perhaps"))
    damaged.write_parquet(own / "odd.parquet")
    with pytest.raises(UserError, match=r"odd.parquet.*`repaid` that is no truth value"):
        run("backtest", str(pipeline), str(own / "odd.parquet"), "--no-compare")


def test_a_baseline_is_kept_and_used_while_it_belongs(folder: Path) -> None:
    file = folder / "pipeline.yaml"
    told = run("calibrate", str(file))
    kept = loads((folder / "pipeline.baseline.json").read_bytes())
    assert kept.hash in told.stdout
    assert "car_value" in told.stdout and "location" in told.stdout
    again = orjson.loads(run("backtest", str(file), str(folder / "rest.parquet"), "--no-compare", "--json").stdout)
    assert again["baseline"] == kept.hash
    text = file.read_text()
    file.write_text(text.replace("1 per 1000000", "1 per 2000000"))
    other = orjson.loads(run("backtest", str(file), str(folder / "rest.parquet"), "--no-compare", "--json").stdout)
    assert other["baseline"] != kept.hash
    file.write_text(text)


def test_the_report_opens_in_a_browser_without_a_network(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "drift.html"
    run("report", str(folder / "pipeline.yaml"), "--html", str(page), "--input", str(folder / "rest.parquet"))
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed (Debian has the package chromium)")
    offline = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [browser, *offline, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<h1>drift of car-loan</h1>" in done.stdout
    assert done.stdout.count("<polyline") == done.stdout.count("<section>") > 30
    first = re.search(r"<h3>(.*?) <span class=\"(\w+)\">", done.stdout)
    assert first is not None and first.groups() == ("car_value/location", "drifting")
    assert done.stdout.count('class="incident"') == 1
    assert not re.search(r"(?:src|href)=", done.stdout), "it must not load anything"


def test_what_cannot_be_is_said(folder: Path, tmp_path: Path) -> None:
    file = folder / "pipeline.yaml"
    (folder / "broken.baseline.json").write_bytes(b"{}")
    broken = folder / "broken.yaml"
    broken.write_text(file.read_text())
    source = str(folder / "rest.parquet")
    runner = CliRunner()
    result = runner.invoke(cli, ["drift", "backtest", str(broken), source])
    assert "is not a baseline" in str(result.exception)
    broken.write_text(file.read_text().replace("reference.parquet", "nowhere.parquet"))
    result = runner.invoke(cli, ["drift", "calibrate", str(broken)])
    assert "nowhere.parquet cannot be read" in str(result.exception)
    broken.write_text(bare((example("car_loan") / "pipeline.yaml").read_text()))
    result = runner.invoke(cli, ["drift", "calibrate", str(broken)])
    assert "watches nothing" in str(result.exception)


def test_nothing_is_learned_from_a_model_that_does_not_answer(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "away"
    shutil.copytree(folder, own)
    pipeline = own / "pipeline.yaml"
    address = "http://127.0.0.1:1/v2/models/m/infer"
    pipeline.write_text(pipeline.read_text().replace("onnx: model.onnx", f"http: {address}"))
    with pytest.raises(EnvironmentFault, match="the model does not answer"):
        run("calibrate", str(pipeline))
