"""Drift as one page that opens without a network: a timeline per monitor, before and after, and the incidents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from math import inf
from typing import Any

import numpy as np

from streamproc.core.drift.alarms import Incidents, alarm_record, monitor_key
from streamproc.core.drift.baseline import EVERYTHING, PANE, Baseline
from streamproc.core.drift.bins import Bins, Floats
from streamproc.core.drift.detector import Change, Detector, Place
from streamproc.core.drift.panes import Counts, Panes
from streamproc.core.drift.processor import shards
from streamproc.core.drift.states import DetectorState
from streamproc.core.drift.tests import Tests

SHOWN = 60
"""So many monitors are drawn; the others are named."""
POINTS = 400
MOST_KEPT = 4 * POINTS
WIDTH, HEIGHT, MARGIN = 720, 90, 4
TOP = 1.25
"""The greatest height that is drawn, as a multiple of the threshold."""


@dataclass(slots=True)
class History:
    """A monitor over time: where windows ended (pane ordinals), and its statistic as a part of its threshold."""

    at: list[int] = field(default_factory=list)
    height: list[float] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def peak(self) -> float:
        return max(self.height, default=0.0)

    def add(self, ordinal: int, height: float) -> None:
        """The end of a window. Where there are more than can be drawn, two become one with the greater height."""
        if self.at and self.at[-1] == ordinal:
            self.height[-1] = max(self.height[-1], height)
            return
        self.at.append(ordinal)
        self.height.append(height)
        if len(self.at) >= MOST_KEPT:
            self.at = self.at[1::2]
            self.height = list(map(max, self.height[::2], self.height[1::2]))


@dataclass(slots=True)
class Story:
    """Everything that a page tells. ``histories`` are by the number of the monitor."""

    baseline: Baseline
    histories: dict[int, History] = field(default_factory=dict)
    incidents: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    panes: int = 0


def story_of(pipeline: str, baseline: Baseline, recover: int, parts: Iterable[tuple[int, Panes]]) -> Story:
    """Judge panes again, shard by shard as they come, and remember what the monitors did."""
    story = Story(baseline)

    def trace(tests: Tests, statistic: Floats, end: Place) -> None:
        heights = statistic / tests.threshold
        for side, height in zip(tests.sides, heights.tolist(), strict=True):
            story.histories.setdefault(side.monitor, History()).add(end.ordinal, height)

    detectors = [Detector(baseline, bins=bins, recover=recover, trace=trace) for bins in shards(baseline)]
    states, incidents = [DetectorState() for _ in detectors], [Incidents() for _ in detectors]
    for shard, part in parts:
        for change in detectors[shard].take(states[shard], part):
            record = alarm_record(pipeline, detectors[shard], change, incidents[shard])
            story.histories[change.monitor].changes.append(change)
            if change.after == "drifting" and record["incident"] is not None:
                story.incidents.setdefault(record["incident"]["id"], []).append(record)
    story.panes = max(state.panes for state in states)
    return story


def page(pipeline: str, story: Story) -> str:
    """The story as HTML, everything inside."""
    order = sorted(story.histories, key=lambda number: _rank(story, number))
    drawn = [_monitor(story, number) for number in order[:SHOWN]]
    rest = [monitor_key(story.baseline, story.baseline.monitors[number]) for number in order[SHOWN:]]
    per = story.baseline.source.get("budget", {}).get("events_per_false_alarm", 0)
    more = f"<p class=dim>not drawn, all lower than these: {escape(', '.join(rest))}</p>" if rest else ""
    return f"""<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>drift of {escape(pipeline)}</title>
<style>{STYLE}</style>
<h1>drift of {escape(pipeline)}</h1>
<p>{story.panes:,} panes of {PANE} offsets, one false alarm allowed per {per:,.0f} events
over {len(story.histories):,} monitors; baseline <code>{escape(story.baseline.hash)}</code></p>
<h2>incidents</h2>
{"".join(_incident(number, its) for number, its in story.incidents.items()) or "<p>none</p>"}
<h2>monitors</h2>
<p class=dim>each line is a monitor's statistic, the dashed one its threshold; red is drifting. Beside it the shares of
its bins, grey in the reference and blue at its first alarm, or else when it last changed.</p>
{"".join(drawn)}
{more}
</html>
"""


def _rank(story: Story, number: int) -> tuple[float, bool, float]:
    """What alarmed first stands first, everything before segments; then what came nearest to an alarm."""
    history = story.histories[number]
    alarms = [change.end.ordinal for change in history.changes if change.after == "drifting"]
    return min(alarms, default=inf), story.baseline.monitors[number].row != EVERYTHING, -history.peak


def _incident(number: str, its: Sequence[dict[str, Any]]) -> str:
    first = its[0]
    columns = ", ".join(dict.fromkeys(alarm["column"] for alarm in its))
    onset = first["onset"]
    return f"""<div class=incident id="{escape(number)}"><b>{escape(first["monitor"])}</b> and {len(its) - 1} more,
since {escape(first["incident"]["since"])}<br>
began about {escape(onset["time"])}, partition {onset["partition"]}, offset {onset["offset"]:,};
severity {first["severity"]}, PSI {first["psi"]}<br><span class=dim>in {escape(columns)}</span></div>
"""


def _monitor(story: Story, number: int) -> str:
    monitor, history = story.baseline.monitors[number], story.histories[number]
    column = next(bins for bins in story.baseline.bins if bins.name == monitor.column)
    alarms = [change for change in history.changes if change.after == "drifting"]
    told = alarms[:1] or history.changes[-1:]
    bars = _bars(column, np.array(story.baseline.totals[monitor.column][monitor.row]), told[0].recent) if told else ""
    state = history.changes[-1].after if history.changes else "stable"
    key = escape(monitor_key(story.baseline, monitor))
    return f"""<section><h3>{key} <span class={state}>{state}</span></h3>
<div class=row>{_timeline(story, history)}{bars}</div></section>
"""


def _timeline(story: Story, history: History) -> str:
    """Statistic over panes as a line; where many windows share a point, the highest of them."""
    whole = max(story.panes, 1)
    at, height = np.array(history.at), np.minimum(np.array(history.height), TOP)
    starts = np.unique(np.searchsorted(at * POINTS // whole, np.arange(POINTS)))
    starts = starts[starts < len(at)]
    x = at[starts] / whole * (WIDTH - 2 * MARGIN) + MARGIN
    y = HEIGHT - MARGIN - np.maximum.reduceat(height, starts) / TOP * (HEIGHT - 2 * MARGIN)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    limit = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) / TOP
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" class=timeline role=img aria-label="statistic over panes">
{_drifting(story, history)}<line x1=0 x2={WIDTH} y1={limit:.1f} y2={limit:.1f} class=limit />
<polyline points="{points}" />
<text x={WIDTH - MARGIN} y=14 text-anchor=end>{story.panes:,} panes</text></svg>"""


def _drifting(story: Story, history: History) -> str:
    """The stretches in which it was drifting."""
    whole, begin, found = max(story.panes, 1), None, list[str]()
    for change in history.changes:
        if change.after == "drifting":
            begin = change.end.ordinal
        elif begin is not None:
            found.append(_stretch(begin, change.end.ordinal, whole))
            begin = None
    if begin is not None:
        found.append(_stretch(begin, whole, whole))
    return "".join(found)


def _stretch(begin: int, end: int, whole: int) -> str:
    x, width = begin / whole * WIDTH, max((end - begin) / whole * WIDTH, 1)
    return f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="{HEIGHT}" class=drift />'


def _bars(column: Bins, reference: Counts, current: Counts) -> str:
    """Two bars for each bin that is in either."""
    p, q = reference / max(int(reference.sum()), 1), current / max(int(current.sum()), 1)
    used = np.flatnonzero((p > 0) | (q > 0))
    most, step = float(max(p.max(), q.max())), 240 / max(len(used), 1)
    bars = list[str]()
    for place, number in enumerate(used.tolist()):
        label = escape(f"{column.label(number)}: {p[number]:.2%} → {q[number]:.2%}")
        for shift, share, kind in ((0.0, p[number], "before"), (0.5, q[number], "now")):
            tall = float(share) / most * (HEIGHT - 2 * MARGIN)
            x, y = (place + shift) * step, HEIGHT - MARGIN - tall
            size = f'x="{x:.1f}" y="{y:.1f}" width="{step * 0.45:.1f}" height="{tall:.1f}"'
            bars.append(f"<rect {size} class={kind}><title>{label}</title></rect>")
    return f'<svg viewBox="0 0 240 {HEIGHT}" class=bars role=img aria-label="before and after">{"".join(bars)}</svg>'


STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --dim: #66727f; --line: #2b6cb0; --paper: #fff; --edge: #d8dee4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --dim: #8b98a5; --line: #6cb2f7; --paper: #12171d; --edge: #2c343d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1060px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: .95rem; margin: 1rem 0 .2rem; }
.dim { color: var(--dim); font-size: .87rem; } .row { display: flex; gap: 1rem; flex-wrap: wrap; }
.incident { border: 1px solid var(--edge); border-left: 4px solid #d1383d; border-radius: 4px; padding: .5rem .8rem;
  margin: .5rem 0; }
svg { border: 1px solid var(--edge); border-radius: 4px; }
svg.timeline { flex: 3 1 480px; } svg.bars { flex: 1 1 200px; }
polyline { fill: none; stroke: var(--line); stroke-width: 1.3; } .limit { stroke: #d1383d; stroke-dasharray: 5 4; }
svg text { font-size: 11px; fill: var(--dim); }
rect.drift { fill: #d1383d; opacity: .16; } rect.before { fill: #98a3ae; } rect.now { fill: var(--line); }
h3 span { font-weight: 400; border-radius: 3px; padding: 0 .4em; font-size: .8rem; }
.stable { color: #2e7d4f; } .warning { color: #b7791f; } .drifting { color: #fff; background: #d1383d; }
"""
