"""Errors where outcomes are known, and the detectors that watch them."""

from __future__ import annotations

import numpy as np
import pytest

from streamproc.backtest import Accuracy
from streamproc.core.drift.errors import error_alarms, error_detectors, errors_of

NAN = float("nan")


def test_an_error_is_a_prediction_that_did_not_come_true() -> None:
    scores = np.array([0.5, 0.5, 0.49, 0.49, NAN, 0.9])
    outcomes = np.array([1.0, 0.0, 1.0, 0.0, 1.0, NAN])
    np.testing.assert_equal(errors_of(scores, outcomes), [0.0, 1.0, 1.0, 0.0, NAN, NAN])


@pytest.mark.parametrize("per", [1e4, 1e5, 1e6])
def test_a_rise_of_errors_is_seen_and_a_steady_rate_is_not(per: float) -> None:
    rng = np.random.default_rng(1)
    errors = np.concatenate([rng.random(20_000) < 0.1, rng.random(10_000) < 0.2]).astype(np.float64)
    errors[::3] = np.nan  # outcomes that never came
    for name, rows in error_alarms(errors, per).items():
        assert sum(row < 20_000 for row in rows) <= 2 * 20_000 / per, name
        assert 20_000 < next(row for row in rows if row >= 20_000) < 24_000, name
        assert all(row % 3 for row in rows)


def test_a_smaller_budget_makes_them_surer() -> None:
    sure, unsure = error_detectors(1e6), error_detectors(1e4)
    assert sure["ADWIN"].delta < unsure["ADWIN"].delta <= 0.1 >= error_detectors(10.0)["ADWIN"].delta
    assert sure["HDDM_A"].drift_confidence < unsure["HDDM_A"].drift_confidence


def test_accuracy_is_of_what_is_known() -> None:
    told = Accuracy(np.array([0.0, 1.0, NAN, 0.0]), np.array([0.5, 0.7, 0.9, NAN]), {})
    assert told.between(0, 3) == {"outcomes": 2, "realised": 0.5, "expected": 0.6}
    assert told.between(3, 4) == {"outcomes": 1, "realised": 1.0, "expected": None}
    assert told.between(2, 3) == {"outcomes": 0, "realised": None, "expected": None}
