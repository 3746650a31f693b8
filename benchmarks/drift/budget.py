"""False alarms on streams in which nothing changes, as a multiple of what the budget allows."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.drift.generators import DAY, STREAMS
from benchmarks.drift.watching import Watcher, as_frame, learned
from streamproc.core.drift.baseline import EVERYTHING

BLOCK = 50_000
EVENTS_PER_ALARM = 1e6
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """A stream, how much of it is the reference, and how many columns there are."""

    stream: str
    reference: int
    columns: int = 10
    season: int | None = None
    """Declared, in events."""
    said: str = ""
    """What is said of it besides."""

    @property
    def name(self) -> str:
        return f"{self.stream}, {self.said}" if self.said else self.stream


SETTINGS = (
    *(Setting("normal", reference) for reference in (2_000, 10_000, 50_000)),
    Setting("normal", 10_000, 50),
    *(Setting(name, 10_000) for name in ("lognormal", "t(3)", "zero-inflated", "Bernoulli(.01)", "one factor")),
    *(Setting(name, 10_000) for name in ("AR(.3)", "AR(.9)", "AR(.99)")),
    *(Setting(name, 50_000) for name in ("AR(.9)", "AR(.99)", "wander")),
    *(Setting("daily", reference, said="not declared") for reference in (5_000, 50_000)),
    *(Setting("daily", reference, season=DAY, said="season declared") for reference in (20_000, 50_000)),
)


def measure(setting: Setting, events: int, references: int, seed: int) -> dict[str, Any]:
    """Alarms over so many events in all, shared among so many references, each with a baseline of its own."""
    each = max(events // references // BLOCK, 1) * BLOCK
    jobs = [(setting, each, seed + number) for number in range(references)]
    with ProcessPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(_one, jobs))
    alarms = sum((Counter(tests) for tests, _, _ in found), Counter[str]())
    allowed = each * references / EVENTS_PER_ALARM
    off, on = sum(off for _, off, _ in found), sum(on for _, _, on in found)
    return {
        "stream": setting.name,
        "reference": setting.reference,
        "columns": setting.columns,
        "events": each * references,
        "references": references,
        "alarms": alarms.total(),
        "of_budget": alarms.total() / allowed,
        "by_test": dict(alarms.most_common()),
        "tests_off": round(off / (on + off), 3),
    }


def _one(job: tuple[Setting, int, int]) -> tuple[dict[str, int], int, int]:
    setting, events, seed = job
    rng = np.random.default_rng(seed)
    reference = next(STREAMS[setting.stream](rng, setting.columns, setting.reference))
    baseline = learned(as_frame(reference), EVENTS_PER_ALARM, setting.season)
    watcher = Watcher(baseline)
    alarms = Counter[str]()
    stream = STREAMS[setting.stream](rng, setting.columns, BLOCK)
    for _ in range(events // BLOCK):
        for change in watcher.feed(as_frame(next(stream))):
            if change.after == "drifting":
                alarms[baseline.monitors[change.monitor].test] += 1
    own = [monitor for monitor in baseline.monitors if monitor.row == EVERYTHING]
    off = sum(monitor.fit is None for monitor in own)
    return dict(alarms), off, len(own) - off
