"""The two kinds of runs: at full speed, and at steady rates.

Full speed: the input is there before the contestant starts. The clock is the broker's: it runs from the append time of
the first output record to that of the last (decisions and dead letters), and the records of that first millisecond are
not counted, since they were made before it. So starting up, joining the group and the first fetch cost nobody
anything; no reader takes processor time away meanwhile; and it does not matter how often a contestant commits. Its CPU
is that of its processes between the same two moments. The second half is given as well: the first has what a JVM needs
to compile, and what two workers need to find each other.

Steady rates: the contestant is started, given a few events, and measured once it has answered them. Latency is from
the moment when the producer's process hands an event to its client until the reader's process, read_committed, has
its decision. The first fifth of each rate warms up and is left out.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import topics
from benchmarks.compare import Outputs, read_back
from benchmarks.contestants import Contestant, Setup
from benchmarks.contestants.process import Ended, Running
from benchmarks.jobs import Job
from benchmarks.lab import Lab
from benchmarks.measure import Sampler
from benchmarks.topics import PARTITIONS

START_SECONDS = 90.0
SETTLE_SECONDS = 1.0
READ_BACK_SECONDS = 300.0
WARM_UP = 0.2
QUANTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}


@dataclass(frozen=True)
class Pace:
    """Over some part of a run: seconds that it took, events a second, CPU microseconds an event."""

    seconds: float
    events_per_second: float
    cpu_us_per_event: float


@dataclass(frozen=True)
class Speed:
    """One run at full speed: all of it, and its second half, when compilers and caches are warm.

    ``rss`` in bytes; ``complaint`` is what was wrong with the outputs, or None.
    """

    events: int
    whole: Pace
    second_half: Pace
    rss: int
    complaint: str | None


@dataclass(frozen=True)
class Latency:
    """Latencies at one rate: quantiles in milliseconds, infinite where that many events had no decision in time."""

    rate: float
    late: int
    quantiles: dict[str, float]


def full_speed(lab: Lab, contestant: Contestant, job: Job, count: int, seconds: float) -> Speed:
    """Run once over ``count`` events, which should take about ``seconds``."""
    source = lab.input(job, count)
    with lab.setup(contestant, job, source) as setup:
        with Running(contestant.command(setup), setup.folder) as process, Sampler(process.pid) as sampler:
            names = _decided(setup)
            if not lab.until(names, lambda ends: ends > 0, START_SECONDS, [process]):
                raise Ended(f"no output after {START_SECONDS:.0f} s: {process.last_words()}")
            # Markers of transactions count as well, so the end is near here, and there once nothing is added.
            lab.until(names, lambda ends: ends >= count, 3 * seconds + START_SECONDS, [process])
            lab.until(names, _unchanged(SETTLE_SECONDS), START_SECONDS, [process])
        outputs = read_back(lab.connection, setup.topics, lab.pool(job), count, contestant.copies, READ_BACK_SECONDS)
    if not outputs.made:
        raise Ended("nothing could be read back")
    whole, half = (_pace_of(outputs, sampler, share) for share in (0.0, 0.5))
    return Speed(count, whole, half, sampler.peak_rss, outputs.complaint())


def _pace_of(outputs: Outputs, sampler: Sampler, share: float) -> Pace:
    start, end, events = outputs.window(share)
    seconds, events = max(end - start, 0.001), max(events, 1)
    return Pace(seconds, events / seconds, sampler.cpu_between(start, end) * 1e6 / events)


def steady(lab: Lab, contestant: Contestant, job: Job, rates: dict[str, float], seconds: float) -> dict[str, Latency]:
    """One start of the contestant, and for ``seconds`` each of these rates (events a second), by name."""
    source = lab.empty_input(job)
    with (
        lab.setup(contestant, job, source) as setup,
        Running(contestant.command(setup), setup.folder) as process,
    ):
        topics.fill(lab.connection, source, lab.pool(job), 0, PARTITIONS)
        names = _decided(setup)
        if not lab.until(names, lambda ends: ends >= PARTITIONS, START_SECONDS, [process]):
            raise Ended(f"not ready after {START_SECONDS:.0f} s: {process.last_words()}")
        folder = setup.folder / "reader"
        folder.mkdir()
        seen = folder / "seen.npz"
        command = [sys.executable, "-m", "benchmarks.reader", setup.address, str(seen), *names]
        first, spans = PARTITIONS, dict[str, tuple[int, int, Path]]()
        with Running(command, folder) as reader:
            for name, rate in rates.items():
                count = max(int(rate * seconds), 1)
                out = folder / f"{name}.npz"
                spans[name] = (first, count, out)
                _pace(lab, setup, [process, reader], spans[name], rate, seconds)
                first += count
        numbers, times = _load(seen, "numbers", "times")
        arrived = np.full(first, np.inf)
        np.minimum.at(arrived, numbers.astype(np.int64), times)
        return {name: _latency(arrived, rates[name], *spans[name]) for name in rates}


def _pace(
    lab: Lab, setup: Setup, others: list[Running], span: tuple[int, int, Path], rate: float, seconds: float
) -> None:
    """Produce one span of events at its rate, and wait until they are decided or it takes too long."""
    first, count, out = span
    folder = setup.folder / out.stem
    folder.mkdir()
    words = [setup.address, setup.job.name, setup.input, str(first), str(count), str(rate), str(out)]
    with Running([sys.executable, "-m", "benchmarks.pacer", *words], folder) as pacer:
        if not pacer.wait(3 * seconds + START_SECONDS):
            raise Ended("the producer could not keep the rate")
    names = _decided(setup)
    lab.until(names, lambda ends: ends >= first + count, 2 * seconds + 10, others)
    lab.until(names, _unchanged(SETTLE_SECONDS), 10, others)


def _latency(arrived: NDArray[np.float64], rate: float, first: int, count: int, out: Path) -> Latency:
    stops, times = _load(out, "stops", "times")
    numbers = np.arange(first + int(count * WARM_UP), first + count)
    handed_over = times[np.searchsorted(stops, numbers, side="right")]
    took = (arrived[numbers] - handed_over) * 1000
    late = int(np.isinf(took).sum())
    ordered = np.percentile(took, list(QUANTILES.values()), method="higher")
    return Latency(rate, late, dict(zip(QUANTILES, ordered.tolist(), strict=True)))


def _load(path: Path, *names: str) -> list[NDArray[np.float64]]:
    with np.load(path) as arrays:
        return [arrays[name] for name in names]


def _decided(setup: Setup) -> list[str]:
    """The topics that say what became of each event."""
    return [setup.topics.decisions, setup.topics.dead_letters]


class _unchanged:  # noqa: N801 - reads as a condition
    """Whether the value has stayed the same for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._value = -1
        self._since = 0.0

    def __call__(self, value: int) -> bool:
        if value != self._value:
            self._value, self._since = value, time.monotonic()
        return time.monotonic() - self._since >= self._seconds
