"""What came out: a table for people, or one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.torture.progress import Recovery

LATE = "never"


@dataclass
class Report:
    """One run. ``recoveries`` are by label of fault; None is one that did not come in time. ``said`` are the last words
    of workers that ended by themselves. ``problems`` are by check."""

    seed: int
    seconds: float
    workers: int
    partitions: int
    brokers: int
    command: str
    faults: Counter[str] = field(default_factory=Counter)
    overlapped: int = 0
    recoveries: dict[str, list[Recovery | None]] = field(default_factory=dict)
    events: int = 0
    aborted: int = 0
    results: Mapping[str, int] = field(default_factory=dict)
    unscored: Mapping[str, int] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    drained: float | None = None
    problems: dict[str, list[str]] = field(default_factory=dict)
    logs: str = ""
    title: str = ""

    @property
    def name(self) -> str:
        """Which run it is, or which runs."""
        return self.title or f"seed {self.seed}"

    @property
    def good(self) -> bool:
        return not any(self.problems.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, with the figures in seconds."""
        recoveries = {label: figures(times) for label, times in self.recoveries.items()}
        return {**vars(self), "recoveries": recoveries, "good": self.good}


def total(reports: Sequence[Report]) -> Report:
    """Several runs as one: what was counted is added up, and problems say which seed they are of."""
    first, seconds = reports[0], sum(one.seconds for one in reports)
    whole = Report(first.seed, seconds, first.workers, first.partitions, first.brokers, first.command)
    whole.title = f"seeds {first.seed} to {reports[-1].seed}"
    for one in reports:
        whole.faults += one.faults
        whole.overlapped += one.overlapped
        whole.events += one.events
        whole.aborted += one.aborted
        whole.results = Counter(whole.results) + Counter(one.results)
        whole.unscored = Counter(whole.unscored) + Counter(one.unscored)
        whole.ended += one.ended
        whole.said += one.said
        for label, times in one.recoveries.items():
            whole.recoveries.setdefault(label, []).extend(times)
        for check, problems in one.problems.items():
            whole.problems.setdefault(check, []).extend(f"seed {one.seed}: {problem}" for problem in problems)
    drained = [one.drained for one in reports]
    whole.drained = None if None in drained else max(time for time in drained if time is not None)
    return whole


def figures(times: Sequence[Recovery | None]) -> dict[str, Any]:
    """Median and worst of each time; ``late`` counts what did not recover within the bound."""
    known = [one for one in times if one is not None]
    told: dict[str, Any] = {"count": len(times), "late": len(times) - len(known)}
    for name in ("fed", "moved", "caught_up", "still"):
        values = [getattr(one, name) for one in known]
        told[name] = {"median": round(median(values), 2), "worst": round(max(values), 2)} if values else None
    return told


def show(report: Report, console: Console) -> None:
    """The table."""
    size = (
        f"{report.workers} workers, {report.partitions} partitions, {report.brokers} broker{'s' * (report.brokers > 1)}"
    )
    title = f"{report.name}: {report.events:,} events, {report.aborted} aborted transactions; {size}"
    table = Table(title=title, caption="seconds from the end of a fault, median / worst", title_justify="left")
    for column in ("fault", "times", "new input", "all moved", "caught up", "stood still"):
        table.add_column(column, justify="left" if column == "fault" else "right", no_wrap=True)
    for label, times in report.recoveries.items():
        told = figures(times)
        cells = [_cell(told[name], told["late"]) for name in ("fed", "moved", "caught_up", "still")]
        table.add_row(Text(label), str(told["count"]), *cells)
    console.print(table)
    drained = LATE if report.drained is None else f"{report.drained:.1f} s"
    lines = [
        f"results {_counts(report.results)}; drained after {drained}",
        f"without a score {_counts(report.unscored)}; workers ended {_counts(report.ended)}",
        f"faults {_counts(report.faults)}, {report.overlapped} of them before the one before was mended",
        *(f"{count} x {words}" for words, count in report.said.most_common()),
    ]
    for check, problems in report.problems.items():
        lines += [f"{'FAILED' if problems else 'good  '} {check}", *(f"       {problem}" for problem in problems)]
    if not report.good and not report.title:
        lines += [f"again: {report.command}", f"logs:  {report.logs}"]
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _cell(told: Mapping[str, float] | None, late: int) -> str:
    times = f"{told['median']:.1f} / {told['worst']:.1f}" if told else "-"
    return f"{times} ({late} {LATE})" if late else times


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"
