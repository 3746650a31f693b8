"""Who runs when: contestants in turn, and that several times, so that a busy hour of the machine meets all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.contestants import Contestant, Unavailable
from benchmarks.contestants.process import Ended
from benchmarks.jobs import Job
from benchmarks.lab import Lab, say
from benchmarks.report import Result
from benchmarks.runs import full_speed, steady
from streamproc.errors import StreamprocError

FIXED_RATES = {"1,000": 1000.0, "5,000": 5000.0}
ROOM = 1.4
"""A rate is tried by those whose full speed is so many times as much: latency beyond that says nothing."""
FEWEST, MOST, STEP = 10_000, 5_120_000, 2
"""Sizes of input topics: 10,000 times a power of two."""
LEAP = 8
"""A calibration has at most so many times the events of the one before."""
LONG_ENOUGH = 0.8
"""A calibration of this share of a run tells how long a run will be; a shorter one says more about starting."""


def run_job(lab: Lab, job: Job, contestants: list[Contestant], runs: int, seconds: float) -> list[Result]:
    """Every contestant ``runs`` times on one job. What fails is noted, and its contestant left out from there on."""
    results = [Result(one) for one in contestants]
    counts: dict[str, int] = {}
    for result in results:

        def calibrated(result: Result = result) -> None:
            counts[result.contestant.name] = _calibrate(lab, result.contestant, job, seconds)

        _try(result, calibrated)
    for turn in range(runs):
        for result in results:
            if result.trouble is not None:
                continue

            def once(result: Result = result) -> None:
                _run_once(lab, job, result, counts[result.contestant.name], seconds)

            say(f"job {job.name}, run {turn + 1} of {runs}: {result.contestant.name}")
            _try(result, once)
    return results


def _run_once(lab: Lab, job: Job, result: Result, count: int, seconds: float) -> None:
    speed = full_speed(lab, result.contestant, job, count, seconds)
    result.speeds.append(speed)
    wrong = f", WRONG: {speed.complaint}" if speed.complaint else ""
    pace = speed.whole
    say(f"  {pace.events_per_second:,.0f} events/s, {pace.cpu_us_per_event:.2f} µs CPU an event{wrong}")
    full = statistics.median(one.whole.events_per_second for one in result.speeds)
    rates = {
        name: rate for name, rate in FIXED_RATES.items() if rate * ROOM <= full or rate == min(FIXED_RATES.values())
    }
    found = steady(lab, result.contestant, job, rates | {"half": full / 2}, seconds)
    for name, latency in found.items():
        result.latencies.setdefault(name, []).append(latency)
        quantiles = " / ".join(f"{value:.0f}" for value in latency.quantiles.values())
        say(f"  at {latency.rate:,.0f}/s: {quantiles} ms, {latency.late} late")


def _calibrate(lab: Lab, contestant: Contestant, job: Job, seconds: float) -> int:
    """How many events a run should have: the largest size that takes no longer than ``seconds``."""
    say(f"job {job.name}: how many events for {contestant.name}")
    count = FEWEST
    while True:
        pace = full_speed(lab, contestant, job, count, seconds).second_half
        size = _size(pace.events_per_second * seconds)
        if size <= count or pace.seconds * 2 >= seconds * LONG_ENOUGH:
            return size
        count = min(size, count * LEAP)


def _size(events: float) -> int:
    """The largest size of input topics that is no more than this."""
    size = FEWEST
    while size * STEP <= min(events, MOST):
        size *= STEP
    return size


def _try(result: Result, action: Callable[[], None]) -> None:
    """Do it; what goes wrong with a contestant is its result, and the others go on."""
    try:
        action()
    except Unavailable as error:
        result.trouble, result.skipped = str(error), True
    except (Ended, StreamprocError, OSError) as error:
        result.trouble = str(error) or type(error).__name__
    if result.trouble:
        say(f"{result.contestant.name} {result.status}: {result.trouble}")
