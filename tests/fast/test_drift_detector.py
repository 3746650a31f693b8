"""Panes and the detector: what comes out depends on the events alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.drift.alarms import Incidents, monitor_key
from streamproc.core.drift.baseline import EVERYTHING, PANE, Baseline, loads
from streamproc.core.drift.calibrate import Reference, calibrate
from streamproc.core.drift.detector import Change, Detector
from streamproc.core.drift.kept import Kept, changes, keys, restore
from streamproc.core.drift.panes import Counted, Layout, Panes, count, split
from streamproc.core.drift.panes import dumps as dump_panes
from streamproc.core.drift.panes import loads as load_panes
from streamproc.core.drift.states import DetectorState

EVENTS_PER_ALARM = 1e5


def sample(rng: np.random.Generator, n: int, shift: float = 0.0) -> pl.DataFrame:
    missing = rng.random(n) < 0.02
    return pl.DataFrame(
        {
            "amount": np.where(missing, np.nan, rng.normal(shift, 1.0, n)),
            "wait": np.where(rng.random(n) < 0.4, 0.0, rng.exponential(1.0, n)),
            "kind": rng.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1]),
        }
    )


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    rng = np.random.default_rng(5)
    frame = sample(rng, 20_000)
    letters = pl.Series(["accepted"] * len(frame))
    reference = Reference(frame, ("amount", "wait", "kind"), ("kind",), {"dead_letters": letters})
    return calibrate(reference, EVENTS_PER_ALARM)


def counted(frame: pl.DataFrame, first: int, partition: int = 0, refused: Sequence[int] | range = ()) -> Counted:
    """The frame's rows as events at consecutive offsets; ``refused`` are rows that became dead letters."""
    n = len(frame)
    events = np.setdiff1d(np.arange(n), np.array(refused, np.int64))
    offsets = np.arange(first, first + n)
    letters = pl.Series(np.where(np.isin(np.arange(n), np.array(refused, np.int64)), "contract", "accepted"))
    own = frame[events.tolist()]
    return Counted(np.full(n, partition), offsets, offsets * 1000, events, own, {"dead_letters": letters})


def cut(layout: Layout, frame: pl.DataFrame, cuts: Sequence[int], partition: int = 0) -> list[Panes]:
    """The panes of a frame, counted in batches that end at the cuts."""
    edges = [0, *sorted({at for at in cuts if 0 < at < len(frame)}), len(frame)]
    return [part for a, b in pairwise(edges) for part in count(layout, counted(frame[a:b], a, partition))]


def whole(parts: Sequence[Panes]) -> dict[tuple[int, int, int], list[int]]:
    """Counts by partition, pane and row."""
    sums = dict[tuple[int, int, int], np.ndarray]()
    for part in parts:
        for pane, row, counts in zip(part.pane_of, part.rows, part.counts, strict=True):
            key = part.partition, int(part.panes[pane]), int(row)
            sums[key] = sums.get(key, 0) + counts
    return {key: counts.tolist() for key, counts in sums.items()}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 1499), max_size=12), st.integers(0, 2**32 - 1))
def test_counts_do_not_depend_on_how_batches_cut_panes(baseline: Baseline, cuts: list[int], seed: int) -> None:
    layout = Layout.of(baseline)
    frame = sample(np.random.default_rng(seed), 1500)
    assert whole(cut(layout, frame, cuts)) == whole(cut(layout, frame, []))


def test_counts_are_those_of_a_plain_loop(baseline: Baseline) -> None:
    layout = Layout.of(baseline)
    rng = np.random.default_rng(9)
    frame, refused = sample(rng, 300), [3, 64, 65, 299]
    expected = dict[tuple[int, int, int], list[int]]()
    for row, event in enumerate(frame.iter_rows(named=True)):
        pane = (1000 + row) // PANE
        inside = [EVERYTHING]
        if row not in refused:
            inside += [1 + n for n, segment in enumerate(baseline.segments) if segment.value == event["kind"]]
        for own in inside:
            counts = expected.setdefault((4, pane, own), [0] * layout.width)
            for column, start in zip(layout.bins, layout.starts.tolist(), strict=True):
                if column.name == "dead_letters":
                    if own == EVERYTHING:
                        value = "contract" if row in refused else "accepted"
                        counts[start + int(column.codes(pl.Series([value]))[0])] += 1
                elif row not in refused:
                    counts[start + int(column.codes(pl.Series([event[column.name]]))[0])] += 1
    assert whole(count(layout, counted(frame, 1000, 4, refused))) == expected


def test_a_batch_of_many_lanes_is_counted_lane_by_lane(baseline: Baseline) -> None:
    layout = Layout.of(baseline)
    frames = [sample(np.random.default_rng(seed), 200) for seed in range(3)]
    lanes = [
        counted(frame, 500 * n, partition) for n, (frame, partition) in enumerate(zip(frames, (7, 0, 3), strict=True))
    ]
    together = Counted(
        np.concatenate([lane.partitions for lane in lanes]),
        np.concatenate([lane.offsets for lane in lanes]),
        np.concatenate([lane.times for lane in lanes]),
        np.concatenate([lane.events + 200 * n for n, lane in enumerate(lanes)]),
        pl.concat([lane.columns for lane in lanes]),
        {"dead_letters": pl.concat([lane.record_columns["dead_letters"] for lane in lanes])},
    )
    apart = {part.partition: part for lane in lanes for part in count(layout, lane)}
    for part in count(layout, together):
        assert dump_panes(part, "b", 0) == dump_panes(apart.pop(part.partition), "b", 0)
    assert not apart


def test_panes_survive_their_record(baseline: Baseline) -> None:
    layout = Layout.of(baseline)
    [part] = count(layout, counted(sample(np.random.default_rng(2), 100), 30, 2))
    raw = dump_panes(part, baseline.hash, 0)
    read = load_panes(raw, baseline.hash, {0: layout})
    assert read is not None
    assert dump_panes(read[1], baseline.hash, 0) == raw
    assert load_panes(raw, "another", {0: layout}) is None
    with pytest.raises(ValueError, match="no panes record"):
        load_panes(b"\x00garbage", baseline.hash, {0: layout})


@pytest.mark.parametrize("most", [1, 500, 2_000, 10**9])
def test_large_records_are_split_into_parts_that_add_up(baseline: Baseline, most: int) -> None:
    layout, detector = Layout.of(baseline), Detector(baseline)
    [part] = count(layout, counted(drifting()[:5000], 30, 2))
    parts = list(split(part, most))
    assert whole(parts) == whole([part])
    assert parts[-1].next == part.next
    assert (len(parts) == 1) == (most > part.counts.size)
    assert all(one.counts.size <= most or len(one.panes) == 1 for one in parts)
    state = DetectorState()
    assert told([change for one in parts for change in detector.take(state, one)]) == told(
        detector.take(DetectorState(), part)
    )


def test_dead_letters_alarm_when_nothing_is_accepted_any_more(baseline: Baseline) -> None:
    detector, state = Detector(baseline), DetectorState()
    frame = sample(np.random.default_rng(4), 160_000)
    found = list[Change]()
    for start in range(0, 160_000, 20_000):
        batch = counted(frame[start : start + 20_000], start, refused=range(20_000) if start else ())
        for part in count(detector.layout, batch):
            found += detector.take(state, part)
        kept = Kept(DetectorState(), Incidents())
        restore(detector, kept, changes(detector, Kept(state, Incidents()), [0]))
        assert kept.state.rows[EVERYTHING].recent.tolist() == state.rows[EVERYTHING].recent.tolist()
    alarms = [one for one in found if one.after == "drifting"]
    assert {monitor_key(baseline, baseline.monitors[one.monitor]) for one in alarms} == {"dead_letters/unseen"}
    assert alarms[0].end.time == 19_999_000  # of the last event; dead letters have no event time


def test_features_are_watched_among_ever_so_many_dead_letters(baseline: Baseline) -> None:
    detector, state = Detector(baseline), DetectorState()
    frame = sample(np.random.default_rng(4), 40_000, shift=1.0)
    refused = [row for row in range(40_000) if row % 10]
    [part] = count(detector.layout, counted(frame, 0, refused=refused))
    alarms = {baseline.monitors[one.monitor].column for one in detector.take(state, part) if one.after == "drifting"}
    assert alarms == {"amount", "dead_letters"}


def drifting(seed: int = 3) -> pl.DataFrame:
    """3,000 events as in the reference, 3,000 that moved, 30,000 as before."""
    rng = np.random.default_rng(seed)
    return pl.concat([sample(rng, 3000), sample(rng, 3000, shift=1.0), sample(rng, 30_000)])


def told(found: Sequence[Change]) -> list[str]:
    return [
        repr(
            (
                *(getattr(change, name) for name in change.__slots__ if name not in ("recent", "moments")),
                change.recent.tolist(),
            )
        )
        for change in found
    ]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 35_999), max_size=20))
def test_changes_depend_neither_on_batches_nor_on_restarts(baseline: Baseline, cuts: list[int]) -> None:
    frame, detector = drifting(), Detector(baseline, recover=5)
    undisturbed = [
        change for part in cut(detector.layout, frame, []) for change in detector.take(DetectorState(), part)
    ]
    table, found = dict[bytes, bytes | None](), list[Change]()
    for part in cut(detector.layout, frame, cuts):
        kept = Kept(DetectorState(), Incidents())  # everything is read back before each batch
        restore(detector, kept, {key: table.get(key) for key in keys(detector, [0])})
        found += detector.take(kept.state, part)
        table |= changes(detector, kept, [0])
    assert told(found) == told(undisturbed)
    assert undisturbed


def test_a_shift_is_seen_and_its_end_too(baseline: Baseline) -> None:
    detector = Detector(baseline, recover=5)
    [part] = cut(detector.layout, drifting(), [])
    found = detector.take(DetectorState(), part)
    alarms = {monitor_key(baseline, baseline.monitors[c.monitor]): c for c in found if c.after == "drifting"}
    location = alarms["amount/location"]
    assert location.direction == "up"
    assert 3000 <= location.end.offset <= 3256
    assert abs(location.onset.offset - 3000) <= 2 * PANE
    assert "amount/location [kind = a]" in alarms
    assert not [key for key in alarms if key.startswith(("wait/", "kind/", "dead_letters/"))]
    recovered = [c for c in found if c.before == "drifting"]
    assert {c.monitor for c in recovered} == {c.monitor for c in alarms.values()}
    assert all(c.end.offset > 6000 for c in recovered)


def test_a_baseline_survives_its_file(baseline: Baseline) -> None:
    raw = baseline.dumps()
    again = loads(raw)
    assert again.dumps() == raw and again.hash == baseline.hash
    with pytest.raises(ValueError, match="does not fit"):
        loads(raw.replace(b'"tau":1.0', b'"tau":2.0', 1))
    with pytest.raises(ValueError, match="not a baseline"):
        loads(b"[]")
