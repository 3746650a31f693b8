"""Whether a worker's memory grows: ``python -m benchmarks.memory [--job small|full] [--millions 10]``.

One worker, and events that come as fast as it decides them. Its resident memory is told after each million.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import threading

import psutil  # type: ignore[import-untyped]

from benchmarks import topics
from benchmarks.contestants import CONTESTANTS
from benchmarks.contestants.process import Running
from benchmarks.jobs import JOBS, Job
from benchmarks.lab import Lab

MILLION = 1_000_000
AHEAD = 400_000
"""Events that the producer may be ahead of the decisions: there is always something to do, and the broker is small."""
SAMPLES = 20
SAMPLE_SECONDS = 0.1
START_SECONDS = 120.0


def measure(lab: Lab, job: Job, millions: int) -> list[float]:
    """Resident megabytes after each million events: the median of some seconds."""
    contestant, source, found = CONTESTANTS["streamproc-1"], lab.empty_input(job), list[float]()
    with lab.setup(contestant, job, source) as setup, Running(contestant.command(setup), setup.folder) as worker:
        done, over = threading.Event(), threading.Event()
        produced, decided = [0], [0]

        def feed() -> None:
            while produced[0] < millions * MILLION and not over.is_set():
                if produced[0] - decided[0] >= AHEAD:
                    done.wait(SAMPLE_SECONDS)
                    done.clear()
                    continue
                topics.fill(lab.connection, source, lab.pool(job), produced[0], AHEAD // 4)
                produced[0] += AHEAD // 4

        async def watch() -> None:
            consumer = topics.make_consumer(lab.connection)
            await consumer.start()
            try:
                names = [setup.topics.decisions, setup.topics.dead_letters]
                while len(found) < millions:
                    worker.check()
                    decided[0] = await topics.ends(lab.connection, consumer, names)
                    done.set()
                    if decided[0] >= (len(found) + 1) * MILLION:
                        process = psutil.Process(worker.pid)
                        sizes = []
                        for _ in range(SAMPLES):
                            sizes.append(process.memory_info().rss / MILLION)
                            await asyncio.sleep(SAMPLE_SECONDS)
                        found.append(statistics.median(sizes))
                        print(f"{len(found):3} million events: {found[-1]:.0f} MB", flush=True)
                    await asyncio.sleep(SAMPLE_SECONDS)
            finally:
                await consumer.stop()

        feeding = threading.Thread(target=feed, daemon=True)
        feeding.start()
        try:
            asyncio.run(watch())
        finally:
            over.set()
            done.set()
            feeding.join(START_SECONDS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", choices=sorted(JOBS), default="small")
    parser.add_argument("--millions", type=int, default=10, help="default: 10")
    given = parser.parse_args()
    with Lab() as lab:
        found = measure(lab, JOBS[given.job], given.millions)
    grown = (found[-1] / found[0] - 1) * 100
    print(f"from {found[0]:.0f} MB after the first million to {found[-1]:.0f} MB: {grown:+.1f} %")
    sys.exit(0)


if __name__ == "__main__":
    main()
