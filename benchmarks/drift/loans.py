"""Car loans whose features shift from row 75,000, and a generated case in which features move before the concept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from river import drift

from benchmarks.drift.watching import Watcher, learned
from streamproc.core.drift.bins import numbers
from streamproc.core.drift.budget import thresholds
from streamproc.core.drift.errors import ADWIN_PER_ALARM, error_detectors
from streamproc.rivals import Rival, alarms_of, rivals
from streamproc.sample import car_loans

REFERENCE = 40_000
SHIFT = 75_000
EVENTS_PER_ALARM = 1e6
LABEL_DAYS = 30
"""How long after the decision it is known whether a loan is repaid."""
BLOCK = 5_000


def measure() -> Iterator[dict[str, Any]]:
    """What was seen when, in events after the shift."""
    data = _loans()
    watched = data.columns.drop("timestamp")
    first, early = _first_alarms(watched, REFERENCE, SHIFT)
    yield _said(f"alarms in the {SHIFT - REFERENCE:,} stable events", early)
    for column, delay in sorted(first.items(), key=lambda item: item[1]):
        yield _said(f"{column}: events to its first alarm", f"{delay:,}")
    yield _said("silent to the end", ", ".join(name for name in watched.columns if name not in first))
    yield from _lead("", data.errors, SHIFT, min(first.values()), _days(data.times))
    for rival in (*rivals(watched[REFERENCE:]), *_budgeted(watched)):
        before = sum(row < SHIFT - REFERENCE for row in rival.alarms)
        after = next((row + 1 + REFERENCE - SHIFT for row in rival.alarms if row >= SHIFT - REFERENCE), None)
        yield _said(f"{rival.name}: alarms before, events to the next", f"{before:,}, {after}")
    yield from _staggered()


def _budgeted(frame: pl.DataFrame) -> Iterator[Rival]:
    """The same detectors for one false alarm in as many events over all columns, where they can be set to that.

    ADWIN's delta as for errors; KSWIN tests at each event, so by Bonferroni its level is one in all of these; for
    PageHinkley, a CUSUM against the running mean, columns are standardised as in the reference, and its threshold is
    Siegmund's for half a standard deviation.
    """
    numeric = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    looks = EVENTS_PER_ALARM * len(numeric)
    makers: dict[str, Callable[[], Any]] = {
        "ADWIN": lambda: drift.ADWIN(delta=ADWIN_PER_ALARM / looks),
        "PageHinkley": lambda: drift.PageHinkley(delta=0.25, threshold=thresholds(2 * looks).cusum),
        "KSWIN": lambda: drift.KSWIN(alpha=1 / looks, seed=7),
    }
    for name, make in makers.items():
        alarms = list[int]()
        for column in numeric:
            values = numbers(frame[column])
            own = values[:REFERENCE]
            alarms += alarms_of(make(), (values[REFERENCE:] - np.nanmean(own)) / np.nanstd(own))
        yield Rival(f"{name} (river, for the same budget)", tuple(sorted(alarms)))


@dataclass(frozen=True, slots=True)
class _Loans:
    columns: pl.DataFrame
    errors: NDArray[np.int64]
    times: list[datetime]


def _loans() -> _Loans:
    files = car_loans()
    reference, analysis = pl.read_csv(files.reference), pl.read_csv(files.analysis)
    repaid = pl.concat([own["repaid"].cast(pl.Int64) for own in (reference, pl.read_csv(files.outcomes))])
    whole = pl.concat([reference.select(analysis.columns), analysis])
    errors = (whole["y_pred"] != repaid).cast(pl.Int64).to_numpy()
    columns = whole.select(pl.exclude("id", "y_pred"))
    return _Loans(columns, errors, columns["timestamp"].str.to_datetime("%Y-%m-%d %H:%M:%S%.f").to_list())


def _days(times: list[datetime]) -> float:
    """Events a day."""
    return len(times) / ((times[-1] - times[0]).total_seconds() / 86_400)


def _first_alarms(frame: pl.DataFrame, reference: int, shift: int) -> tuple[Mapping[str, int], int]:
    """Events from the shift to each column's first alarm, and the alarms before it."""
    baseline = learned(frame[:reference], EVENTS_PER_ALARM)
    watcher, first, early = Watcher(baseline), dict[str, int](), 0
    for start in range(reference, len(frame), BLOCK):
        for change in watcher.feed(frame[start : start + BLOCK]):
            if change.after == "drifting":
                seen = change.end.offset + 64 + reference - shift
                if seen <= 0:
                    early += 1
                else:
                    first.setdefault(baseline.monitors[change.monitor].column, seen)
    return first, early


def _lead(case: str, errors: NDArray[np.int64], shift: int, features: int, per_day: float) -> Iterator[dict[str, Any]]:
    """How much earlier features alarmed than detectors on errors, with labels at once and with late ones."""
    late = round(LABEL_DAYS * per_day)
    for name, detector in error_detectors(EVENTS_PER_ALARM).items():
        seen, early = _error_alarm(detector, errors, shift)
        if seen is None:
            yield _said(f"{case}errors, {name}", f"never ({early} before)")
            continue
        yield _said(f"{case}errors, {name}: events to its alarm", f"{seen:,} ({early} before)")
        yield _said(f"{case}lead over it: events, were labels there at once", f"{seen - features:,}")
        lead = seen - features + late
        what = f"{case}lead over it with labels after {LABEL_DAYS} days"
        yield _said(what, f"{lead:,} events, {lead / per_day:.1f} days")


def _error_alarm(detector: Any, errors: NDArray[np.int64], shift: int) -> tuple[int | None, int]:
    early = 0
    for row, error in enumerate(errors.tolist()):
        detector.update(error)
        if detector.drift_detected:
            if row >= shift:
                return row + 1 - shift, early
            early += 1
    return None, early


def _staggered() -> Iterator[dict[str, Any]]:
    """Two inputs move at row 60,000, what they mean for the outcome changes at row 65,000: only then errors grow."""
    rng = np.random.default_rng(3)
    n, moved, changed = 100_000, 60_000, 65_000
    rows = np.arange(n)
    x = rng.standard_normal((n, 4))
    x[:, 0] += np.where(rows >= moved, 0.5, 0.0)
    x[:, 1] *= np.where(rows >= moved, 1.3, 1.0)
    weights = np.where((rows >= changed)[:, None], [0.3, 1.0, -0.6, 0.4], [1.0, 0.6, -0.6, 0.4])
    chance = 1 / (1 + np.exp(-2 * (x * weights).sum(axis=1)))
    outcome = rng.random(n) < chance
    score = 1 / (1 + np.exp(-2 * (x @ [1.0, 0.6, -0.6, 0.4])))
    frame = pl.DataFrame({f"x{number}": x[:, number] for number in range(4)} | {"score": score})
    first, early = _first_alarms(frame, REFERENCE, moved)
    case = "staggered: "
    yield _said(f"{case}alarms in the {moved - REFERENCE:,} stable events", early)
    for column, delay in sorted(first.items(), key=lambda item: item[1]):
        yield _said(f"{case}{column}: events from the move to its alarm", f"{delay:,}")
    errors = ((score > 0.5) != outcome).astype(np.int64)
    yield from _lead(case, errors, changed, min(first.values()) - (changed - moved), 165.0)


def _said(what: str, value: Any) -> dict[str, Any]:
    return {"what": what, "value": value}
