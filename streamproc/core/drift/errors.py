"""Errors of predictions, where outcomes are known: river's ADWIN and HDDM_A on 0 and 1, event by event.

They see what features and scores cannot: that the same events come to mean something else. Outcomes are late, so they
see it late.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from streamproc.core.drift.accuracy import CUTOFF
from streamproc.core.drift.bins import Floats

ADWIN_PER_ALARM: Final = 2_000.0
HDDM_A_PER_ALARM: Final = 50.0
"""Over the events to one false alarm, this is the detector's confidence: found by simulation, on the safe side
(benchmarks.drift --part errors). The bounds that they are made of are far from what they do."""
MOST: Final = 0.1


def errors_of(scores: Floats, outcomes: Floats) -> Floats:
    """1 where the prediction, which is the outcome from a score of .5 on, did not come true, 0 where it did, NaN where
    either is not known; shape (events,)."""
    wrong: Floats = ((scores >= CUTOFF) != (outcomes == 1)).astype(np.float64)
    wrong[np.isnan(scores) | np.isnan(outcomes)] = np.nan
    return wrong


def error_detectors(events_per_alarm: float) -> Mapping[str, Any]:
    """The detectors, each set to at most one false alarm in so many events. ADWIN sees changes, HDDM_A rises."""
    from river import drift  # it takes seconds to import
    from river.drift import binary

    makers: Mapping[str, Any] = {"ADWIN": drift.ADWIN, "HDDM_A": binary.HDDMA}
    return {
        "ADWIN": makers["ADWIN"](delta=min(MOST, ADWIN_PER_ALARM / events_per_alarm)),
        "HDDM_A": makers["HDDM_A"](drift_confidence=min(MOST, HDDM_A_PER_ALARM / events_per_alarm)),
    }


def error_alarms(errors: Floats, events_per_alarm: float) -> dict[str, list[int]]:
    """The rows at which each detector alarms; rows whose error is not known are passed over."""
    rows = np.flatnonzero(~np.isnan(errors))
    wrong = errors[rows].astype(np.int64).tolist()
    found = dict[str, list[int]]()
    for name, detector in error_detectors(events_per_alarm).items():
        alarms = found[name] = []
        for row, error in zip(rows.tolist(), wrong, strict=True):
            detector.update(error)
            if detector.drift_detected:
                alarms.append(row)
    return found
