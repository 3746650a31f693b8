"""An alarm in words and with a small plot, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDTH = 30
BAR = "█"


def explained(alarm: Mapping[str, Any]) -> str:
    """A record of schemas/drift.schema.json for people."""
    if alarm["reference"] is None:
        return _volume(alarm)
    segment = alarm["segment"]
    where = f" where {segment['column']} = {segment['value']}" if segment else ""
    side = {"up": ", upwards", "down": ", downwards"}.get(alarm["direction"] or "", "")
    onset, end = alarm["onset"], alarm["window"]["to"]
    per = alarm["budget"].get("events_per_false_alarm", 0)
    lines = [
        f"{alarm['state']}: {alarm['test']} of {alarm['column']}{where}{side}",
        f"  alarm     {alarm['id']} at {end['time']} (partition {end['partition']}, offset {end['offset']:,})",
        f"  began     about {onset['time']} (partition {onset['partition']}, offset {onset['offset']:,})",
        f"  evidence  {alarm['statistic']:.1f}, where {alarm['threshold']:.1f} is the threshold;"
        f" severity {alarm['severity']}, PSI {alarm['psi']}",
        f"  budget    one false alarm per {per:,.0f} events over all monitors",
    ]
    lines += _incident(alarm["incident"])
    lines += _accuracy(alarm.get("expected_accuracy"))
    lines += ["", *_summary(alarm), "", *_plot(alarm["changed_most"]), *_decisions(alarm["decisions"])]
    return "\n".join(lines)


def _volume(alarm: Mapping[str, Any]) -> str:
    """A record about volume: there is a figure and its limit, and nothing to compare."""
    segment, end, test = alarm["segment"], alarm["window"]["to"], alarm["test"]
    where = "all partitions together" if segment is None else f"partition {segment['value']}"
    unit = "s" if test in ("silence", "age") else " records a minute"
    lines = [
        f"{alarm['state']}: {test} of {where}",
        f"  alarm     {alarm['id']} after {end['time']} (partition {end['partition']}, offset {end['offset']:,})",
        f"  evidence  {alarm['statistic']:,.1f}{unit}, where {alarm['threshold']:,.1f}{unit} is the limit",
    ]
    return "\n".join(lines + _incident(alarm["incident"]))


def _incident(incident: Mapping[str, Any] | None) -> list[str]:
    if incident is None:
        return []
    more = "" if incident["alarmed"] <= len(incident["monitors"]) else ", …"
    named = ", ".join(incident["monitors"]) + more
    return [f"  incident  {incident['id']} since {incident['since']}, {incident['alarmed']} alarmed: {named}"]


def _accuracy(expected: Mapping[str, Any] | None) -> list[str]:
    """The accuracy that is expected, and under which conditions; records of other monitors have none."""
    if expected is None:
        return []
    before, now = ("unknown" if expected[at] is None else f"{expected[at]:.1%}" for at in ("reference", "now"))
    said = f"{now} expected now, {before} in the reference, provided that"
    return [f"  accuracy  {said}", *(f"            - {one}" for one in expected["assumes"])]


def _summary(alarm: Mapping[str, Any]) -> list[str]:
    before, now = alarm["reference"], alarm["current"]
    rows = [("", "before", "now"), ("events", f"{before['events']:,}", f"{now['events']:,}")]
    rows.append(("missing", f"{before['missing']:.2%}", f"{now['missing']:.2%}"))
    figures = [name for name in ("mean", "spread") if name in before and name in now]
    rows += [(name, f"{before[name]:.6g}", f"{now[name]:.6g}") for name in figures]
    was, quantiles = before.get("quantiles", {}), now.get("quantiles", {})
    rows += [(f"{float(q):.0%}", f"{was[q]:.6g}", f"{quantiles[q]:.6g}") for q in was if q in quantiles]
    return [f"  {name:<10}{left:>14}{right:>14}" for name, left, right in rows]


def _plot(changed: list[dict[str, Any]]) -> list[str]:
    """Two bars for each value whose share changed most."""
    most = max((max(one["before"], one["now"]) for one in changed), default=0.0)
    if not most:
        return []
    lines = ["  what changed most"]
    width = max(len(one["value"]) for one in changed)
    for one in changed:
        for place, name in enumerate(("before", "now")):
            bar = BAR * round(WIDTH * one[name] / most)
            lines.append(f"  {one['value'] if not place else '':<{width}}  {name:<6} {one[name]:>7.2%} {bar}")
    return lines


def _decisions(decisions: Mapping[str, Any]) -> list[str]:
    lines = list[str]()
    for kind, shares in decisions.items():
        moved = [
            f"{name} {shares['before'].get(name, 0.0):.1%} → {shares['now'].get(name, 0.0):.1%}"
            for name in sorted({*shares["before"], *shares["now"]})
        ]
        lines.append(f"  {kind.replace('_', ' ')}: {', '.join(moved)}")
    return ["", *lines] if lines else []
