"""Expected accuracy: it falls with scores that are less sure, and says what it takes for granted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from streamproc.baselines import learn, watching
from streamproc.core.drift.accuracy import ASSUMES, expected_accuracy, fit_accuracies
from streamproc.core.drift.alarms import Incidents, alarm_record
from streamproc.core.drift.baseline import EVERYTHING, Baseline, loads
from streamproc.core.drift.bins import NumericBins, make_bins, numbers
from streamproc.core.drift.calibrate import Reference, calibrate
from streamproc.core.drift.detector import Change, Detector
from streamproc.core.drift.panes import Counted, count
from streamproc.core.drift.states import DetectorState
from streamproc.drift_text import explained
from streamproc.errors import UserError
from streamproc.pipeline import open_pipeline
from tests.record_schemas import problems

ALARM = 1e6
SURE, UNSURE = 0.28, 0.41
"""Shapes of the beta distribution of scores: their accuracies are about .84 and .79."""


def scored(rng: np.random.Generator, n: int, shape: float) -> tuple[pl.DataFrame, np.ndarray]:
    """Calibrated scores, and what came true."""
    scores = rng.beta(shape, shape, n)
    frame = pl.DataFrame({"score": scores, "branch": rng.choice(["north", "south"], n)})
    return frame, (rng.random(n) < scores).astype(np.float64)


def learned(frame: pl.DataFrame, outcomes: np.ndarray | None, segments: tuple[str, ...] = ()) -> Baseline:
    return calibrate(Reference(frame, ("score",), segments, score="score", outcomes=outcomes), ALARM)


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    frame, outcomes = scored(np.random.default_rng(1), 10_000, SURE)
    outcomes[::3] = np.nan  # not all are known
    return learned(frame, outcomes, ("branch",))


def watched(detector: Detector, frame: pl.DataFrame) -> list[Change]:
    n = len(frame)
    offsets = np.arange(n)
    batch = Counted(np.zeros(n, np.int64), offsets, offsets, np.arange(n), frame)
    [part] = count(detector.layout, batch)
    return detector.take(DetectorState(), part)


def realised(frame: pl.DataFrame, outcomes: np.ndarray) -> float:
    return float(((frame["score"].to_numpy() >= 0.5) == (outcomes == 1)).mean())


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_scores_that_are_less_sure_alarm_with_the_accuracy_that_is_left(baseline: Baseline, seed: int) -> None:
    rng, detector = np.random.default_rng(seed), Detector(baseline)
    (before, came), (after, true) = scored(rng, 5_000, SURE), scored(rng, 50_000, UNSURE)
    assert realised(before, came) - realised(after, true) == pytest.approx(0.05, abs=0.02)
    found = [c for c in watched(detector, pl.concat([before, after[:4_000]])) if c.after == "drifting"]
    assert min(c.end.offset for c in found) >= 5_000 - 64
    own = {m.row: c for c in found if (m := baseline.monitors[c.monitor]).test == "expected_accuracy"}
    assert EVERYTHING in own and len(own) > 1  # the segments tell of it too
    record = alarm_record("t", detector, own[EVERYTHING], Incidents())
    assert problems("drift", record) == []
    assert record["monitor"] == "score/expected_accuracy" and record["direction"] == "down"
    assert record["expected_accuracy"]["assumes"] == list(ASSUMES)
    assert record["expected_accuracy"]["reference"] == pytest.approx(realised(before, came), abs=0.02)
    text = explained(record)
    assert f"accuracy  {record['expected_accuracy']['now']:.1%} expected now" in text
    assert all(one in text for one in ASSUMES)
    counts = np.bincount(detector.layout.bins[0].codes(after["score"]), minlength=detector.layout.width)
    assert expected_accuracy(baseline.accuracies, counts) == pytest.approx(realised(after, true), abs=0.01)


def test_what_is_expected_now_is_what_comes_true(baseline: Baseline) -> None:
    """The 256 to 512 last events of an alarm that began well before it: their scores are all of the new kind."""
    rng, detector = np.random.default_rng(5), Detector(baseline)
    after, true = scored(rng, 20_000, UNSURE)
    alarm = next(
        c
        for c in watched(detector, after)
        if c.after == "drifting" and baseline.monitors[c.monitor].test == "expected_accuracy"
    )
    record = alarm_record("t", detector, alarm, Incidents())
    assert record["expected_accuracy"]["now"] == pytest.approx(realised(after, true), abs=0.02)


def test_it_is_blind_to_what_scores_mean(baseline: Baseline) -> None:
    """Concept drift: outcomes are the other way round, and the scores are as they were."""
    frame, outcomes = scored(np.random.default_rng(6), 20_000, SURE)
    assert realised(frame, 1 - outcomes) < 0.25
    assert not [c for c in watched(Detector(baseline), frame) if c.after == "drifting"]


def test_other_monitors_expect_nothing(baseline: Baseline) -> None:
    detector = Detector(baseline)
    frame, _ = scored(np.random.default_rng(7), 4_000, UNSURE)
    other = next(c for c in watched(detector, frame) if baseline.monitors[c.monitor].test == "spread")
    record = alarm_record("t", detector, other, Incidents())
    assert record["expected_accuracy"] is None and problems("drift", record) == []
    assert "accuracy" not in explained(record)


def test_accuracies_are_shares_drawn_to_their_neighbours() -> None:
    frame, outcomes = scored(np.random.default_rng(8), 20_000, SURE)
    column = make_bins("score", frame["score"])
    assert isinstance(column, NumericBins)
    codes, scores = column.codes(frame["score"]), numbers(frame["score"])
    found = fit_accuracies(column, codes, scores, outcomes)
    right = (scores >= 0.5) == (outcomes == 1)
    assert len(found) == column.size - 1 and ((found > 0) & (found < 1)).all()
    for place in range(column.size - 1):
        inside = codes == place
        if inside.sum() >= 500:
            assert found[place] == pytest.approx(right[inside].mean(), abs=0.02)
    assert not (codes == 0).any()  # below the least of the reference: as its neighbour is, and a little as all are
    assert found[0] == pytest.approx(found[1], abs=0.1)


def test_it_takes_its_part_of_the_budget_and_of_the_baseline(baseline: Baseline) -> None:
    frame, _ = scored(np.random.default_rng(1), 10_000, SURE)
    without = learned(frame, None, ("branch",))
    assert baseline.thresholds.looks == without.thresholds.looks + 2 * 2 * ALARM / 64
    assert without.accuracies == () and "accuracies" not in orjson.loads(without.dumps())
    again = loads(baseline.dumps())
    assert again.accuracies == baseline.accuracies and again.hash == baseline.hash
    assert len(baseline.accuracies) == baseline.bins[0].size - 1


def test_a_score_that_tells_nothing_is_not_watched_for_it() -> None:
    rng = np.random.default_rng(9)
    frame = pl.DataFrame({"score": rng.uniform(0.6, 0.7, 5_000)})
    made = learned(frame, np.ones(5_000))
    [monitor] = [monitor for monitor in made.monitors if monitor.test == "expected_accuracy"]
    assert monitor.off == "predictions come true as often whatever the score is"


def test_a_reference_without_what_is_needed_is_an_error() -> None:
    frame, outcomes = scored(np.random.default_rng(1), 5_000, SURE)
    outcomes[199:] = np.nan
    with pytest.raises(ValueError, match="199 outcomes of events with a score, and 200 are needed"):
        learned(frame, outcomes)
    few = pl.DataFrame({"score": np.tile([0.2, 0.8], 500)})
    with pytest.raises(ValueError, match="only 2 different values"):
        learned(few, np.ones(1_000))
    with pytest.raises(ValueError, match="a score that is watched"):
        calibrate(Reference(frame, ("branch",), score="score", outcomes=np.ones(5_000)), ALARM)


PIPELINE = """pipeline: loans
events: {topic: loans.events, schema: event.schema.json, time: time}
model: {python: 'own_model:score', inputs: [sure]}
drift:
  reference: reference.ndjson
  false_alarms: 1 per 1000000 events
  watch: [score]
  outcome: repaid
rules:
  - {id: rest, decide: approve}
actions: {approve: loans.approved}
"""
CONTRACT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["sure", "time"],
    "properties": {"sure": {"type": "number"}, "time": {"type": "integer"}},
}


def pipeline_of(folder: Path, rows: list[dict[str, Any]], extra: str = "") -> Any:
    (folder / "pipeline.yaml").write_text(PIPELINE.replace("  outcome", f"{extra}  outcome"), encoding="utf-8")
    (folder / "event.schema.json").write_bytes(orjson.dumps(CONTRACT))
    (folder / "own_model.py").write_text("def score(columns):\n    return columns['sure']\n", encoding="utf-8")
    (folder / "reference.ndjson").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return open_pipeline(folder / "pipeline.yaml", masked=False)


def rows_of(n: int = 3_000) -> list[dict[str, Any]]:
    """Rows of a reference that are not in the order of their times; the contract has no ``repaid``."""
    frame, outcomes = scored(np.random.default_rng(1), n, SURE)
    each = zip(frame["score"].to_list(), outcomes.tolist(), strict=True)
    rows = [{"sure": score, "time": at * 1000, "repaid": bool(true)} for at, (score, true) in enumerate(each)]
    rows[7]["repaid"], rows[8]["repaid"] = None, int(rows[8]["repaid"])
    del rows[9]["repaid"]
    return rows[::-1]


def test_outcomes_come_from_a_field_of_the_reference_that_the_contract_refuses(tmp_path: Path) -> None:
    rows = rows_of()
    rows.insert(1_000, {"sure": "not a number", "repaid": True, "time": 5})  # a dead letter has no part in it
    _, made = watching(pipeline_of(tmp_path, rows))
    assert made is not None and made.source["events"] == 3_000
    frame, outcomes = scored(np.random.default_rng(1), 3_000, SURE)
    outcomes[[7, 9]] = np.nan
    column = make_bins("score", frame["score"])
    assert not isinstance(column, str)
    own = fit_accuracies(column, column.codes(frame["score"]), numbers(frame["score"]), outcomes)
    assert made.accuracies == pytest.approx(own.tolist(), abs=1e-8)
    monitors = [monitor for monitor in made.monitors if monitor.test == "expected_accuracy"]
    assert [(monitor.column, monitor.off) for monitor in monitors] == [("score", "")]


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"repaid": None}, "199 outcomes of events with a score, and 200 are needed", "take `drift.outcome` out"),
        ({"repaid": "yes"}, "a `repaid` that is no truth value", "true or false, 1 or 0"),
        ({"repaid": 2}, "row 199 of the reference, counted from 0, has a `repaid`", "true or false"),
        ({}, "no row of the reference has a field `repaid`", "`drift.outcome` names the field"),
    ],
)
def test_outcomes_that_cannot_be_used_are_said_to_be_so(
    tmp_path: Path, change: dict[str, Any], message: str, hint: str
) -> None:
    rows = rows_of()[:1_000] if change else [{k: v for k, v in row.items() if k != "repaid"} for row in rows_of()]
    rows = [row if at < 199 else row | change for at, row in enumerate(rows)]
    with pytest.raises(UserError) as raised:
        learn(pipeline_of(tmp_path, rows))
    assert message in raised.value.message and hint in (raised.value.hint or "")


def test_a_season_that_the_reference_does_not_cover_is_said_to_be_too_long(tmp_path: Path) -> None:
    assert learn(pipeline_of(tmp_path, rows_of(), extra="  season: 25m\n")).season is not None
    with pytest.raises(UserError, match=r"covers 1\.7 periods of the season") as raised:
        learn(pipeline_of(tmp_path, rows_of(), extra="  season: 30m\n"))
    assert raised.value.hint == "give a longer reference, or take `drift.season` or `drift.outcome` out"


def test_plans_differ_by_season_and_outcome(tmp_path: Path) -> None:
    hashes = {pipeline_of(tmp_path, rows_of(10), extra=extra).plan.hash for extra in ("", "  season: 1d\n")}
    text = PIPELINE.replace("  outcome: repaid\n", "")
    (tmp_path / "pipeline.yaml").write_text(text, encoding="utf-8")
    assert len({*hashes, open_pipeline(tmp_path / "pipeline.yaml", masked=False).plan.hash}) == 3
