"""What came out: medians with the least and the greatest, as one table a job and as one JSON object."""

from __future__ import annotations

import math
import os
import platform
import statistics
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contestants import Contestant
from benchmarks.runs import QUANTILES, Latency, Speed
from streamproc.kafka.dev_broker import KAFKA_VERSION

MEGABYTE = 1e6


@dataclass
class Result:
    """All runs of one contestant on one job. ``trouble`` says why there are none, or why they ended."""

    contestant: Contestant
    speeds: list[Speed] = field(default_factory=list)
    latencies: dict[str, list[Latency]] = field(default_factory=dict)
    trouble: str | None = None
    skipped: bool = False

    @property
    def status(self) -> str:
        """``ok``, ``wrong`` (outputs differ), ``skipped`` or ``failed``."""
        if self.skipped:
            return "skipped"
        if self.trouble:
            return "failed"
        return "wrong" if self.complaint else "ok"

    @property
    def complaint(self) -> str | None:
        return next((one.complaint for one in self.speeds if one.complaint), None)

    def figures(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        compared = "exempt" if self.contestant.copies else "agree" if self.status == "ok" else None
        latency = {
            name: {
                "rate": _spread([one.rate for one in runs]),
                "late": max(one.late for one in runs),
                **{quantile: _spread([one.quantiles[quantile] for one in runs]) for quantile in QUANTILES},
            }
            for name, runs in self.latencies.items()
        }
        return {
            "status": self.status,
            "why": self.trouble or self.complaint,
            "guarantee": self.contestant.guarantee,
            "outputs": compared,
            "runs": len(self.speeds),
            "events": [one.events for one in self.speeds],
            "seconds": _spread([one.whole.seconds for one in self.speeds]),
            "events_per_second": _spread([one.whole.events_per_second for one in self.speeds]),
            "cpu_us_per_event": _spread([one.whole.cpu_us_per_event for one in self.speeds]),
            "second_half": {
                "events_per_second": _spread([one.second_half.events_per_second for one in self.speeds]),
                "cpu_us_per_event": _spread([one.second_half.cpu_us_per_event for one in self.speeds]),
            },
            "peak_rss_mb": _spread([one.rss / MEGABYTE for one in self.speeds]),
            "latency_ms": latency,
        }


def _spread(values: list[float]) -> dict[str, float | None] | None:
    """Median, least and greatest; null for what is infinite, since JSON has no word for it."""
    if not values:
        return None
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) if math.isfinite(value) else None for name, value in found.items()}


def machine() -> dict[str, Any]:
    """Where it is measured, and how busy that was just before: Linux's load of the last 1, 5 and 15 minutes."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "load": [round(one, 2) for one in os.getloadavg()],
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
    }


def show(job: str, results: list[Result], event_bytes: float, console: Console) -> None:
    """Print one job's table, and under it what is wrong."""
    title = f"job {job}: events of {event_bytes:.0f} bytes; medians (least to greatest)"
    table = Table(title=title, title_justify="left")
    for heading in ("", "guarantee", "events/s", "CPU µs/event", "2nd half:\nevents/s", "2nd half:\nCPU µs", "RSS MB"):
        table.add_column(heading, justify="left" if heading in {"", "guarantee"} else "right", no_wrap=True)
    for heading in ("1,000/s", "5,000/s", "half of max"):
        table.add_column(f"latency ms at {heading}\np50 / p99 / p99.9", justify="right", no_wrap=True)
    table.add_column("outputs")
    for result in results:
        table.add_row(result.contestant.name, result.contestant.guarantee, *_cells(result))
    console.print(table)
    for result in results:
        if why := result.trouble or result.complaint:
            console.print(f"{result.contestant.name} {result.status}: {why}", markup=False, highlight=False)


def _cells(result: Result) -> list[str]:
    figures = result.figures()
    words = {"agree": "agree", "exempt": "a copy", None: result.status}
    status = words[figures["outputs"]] if result.status == "ok" else result.status
    return [
        _text(figures["events_per_second"], ",.0f"),
        _text(figures["cpu_us_per_event"], ".2f"),
        _text(figures["second_half"]["events_per_second"], ",.0f"),
        _text(figures["second_half"]["cpu_us_per_event"], ".2f"),
        _text(figures["peak_rss_mb"], ",.0f"),
        *(_latency_text(figures["latency_ms"].get(name)) for name in ("1,000", "5,000", "half")),
        status,
    ]


def _text(spread: dict[str, float | None] | None, layout: str) -> str:
    if spread is None:
        return "–"
    median, least, greatest = (_number(spread[name], layout) for name in ("median", "min", "max"))
    return f"{median}\n({least}–{greatest})"


def _latency_text(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "–"
    spreads = [figures[quantile] for quantile in QUANTILES]
    medians = " / ".join(_number(spread["median"], ",.0f") for spread in spreads)
    ranges = " / ".join(f"{_number(one['min'], ',.0f')}–{_number(one['max'], ',.0f')}" for one in spreads)
    return f"{medians}\n({ranges})"


def _number(value: float | None, layout: str) -> str:
    return "∞" if value is None else format(value, layout)
