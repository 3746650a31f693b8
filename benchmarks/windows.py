"""What five windowed features cost: ``python -m benchmarks.windows [--keys 1000000] [--events 2000000] [--beside]``.

Without Kafka: processor time of deciding an event with and without them, bytes of memory and of changelog, and whether
memory grows (``--events 20000000``). With ``--beside``: whole workers on a real broker, and Quix Streams' windows on
the same events.

The features: how many payments in an hour; sum, mean and greatest amount of a day; how unusual the amount is. Each key
has two events a day on average, at random, so a key's day is a few buckets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import orjson
import psutil  # type: ignore[import-untyped]

from benchmarks.windows_beside import beside
from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.processor import NOTHING_SEEN, Batch, Effects, Records, process_lanes, run
from streamproc.core.state import Tables, changelog_key
from streamproc.core.windows.lane import META, TABLE
from streamproc.offline import EPOCH
from streamproc.pipeline import open_pipeline

LANES = 4
BATCH = 4_000
A_DAY = 2.0
DAY = 86_400_000
WARM = 40_000
START = 1_767_225_600_000
FILE = """
pipeline: bench-windows
events: {topic: bench-windows.events, schema: event.schema.json, key: card, time: at}
FEATURES
rules: [{id: rest, decide: approve}]
actions: {approve: null}
topics: {retention: 1h}
"""
FEATURES = """
windows: {max_keys: 100000000}
features:
  count_1h: {window: 1h, by: card, agg: count}
  sum_24h: {window: 24h, by: card, agg: sum, of: amount}
  mean_24h: {window: 24h, by: card, agg: mean, of: amount}
  max_24h: {window: 24h, by: card, agg: max, of: amount}
  unusual: {by: card, agg: zscore, of: amount}
"""
SCHEMA = {
    "type": "object",
    "required": ["card", "at", "amount"],
    "properties": {"card": {"type": "integer"}, "at": {"type": "integer"}, "amount": {"type": "number"}},
}


def write_file(folder: Path, features: str) -> Path:
    """A pipeline file with these features."""
    (folder / "event.schema.json").write_bytes(orjson.dumps(SCHEMA))
    file = folder / "pipeline.yaml"
    file.write_text(FILE.replace("FEATURES", features), encoding="utf-8")
    return file


def events(count: int, keys: int, size: int, seed: int = 7) -> Iterator[list[bytes]]:
    """So many events in lists of ``size``, in the order of their time."""
    rng, at, step = np.random.default_rng(seed), float(START), DAY / (keys * A_DAY)
    for _ in range(count // size):
        cards = rng.integers(0, keys, size).tolist()
        times = (at + np.arange(size) * step).astype(np.int64).tolist()
        amounts = np.round(rng.lognormal(3, 1, size), 2).tolist()
        at += size * step
        yield [b'{"card":%d,"at":%d,"amount":%.2f}' % row for row in zip(cards, times, amounts, strict=True)]


class Meter:
    """A decide processor on some lanes, with what it costs."""

    def __init__(self, features: str) -> None:
        with TemporaryDirectory() as folder:
            self._processor = DecideProcessor.of(open_pipeline(write_file(Path(folder), features)).plan)
        self.states = [Tables(TABLES) for _ in range(LANES)]
        self.seconds = list[float]()
        self.records = self.bytes = self._offset = 0

    def take(self, values: Sequence[bytes]) -> None:
        """Decide a batch of all lanes, and take over what changes. The keys are in the lane that they are always in."""
        batches = list(self._batches(values))
        started = time.process_time()
        steps = process_lanes(self._processor, batches, self.states, NOTHING_SEEN, EPOCH)
        effects: list[Effects] = run(steps, None)
        for state, one in zip(self.states, effects, strict=True):
            state.apply(one.state)
        self.seconds.append(time.process_time() - started)
        for one in effects:
            for key, value in one.state.get(TABLE, {}).items():
                self.records += key != META
                self.bytes += len(changelog_key(TABLE, key)) + len(value or b"")

    def _batches(self, values: Sequence[bytes]) -> Iterator[Batch]:
        for lane in range(LANES):
            own = [value for value in values if int(value[8 : value.index(b",")]) % LANES == lane]
            places, count = np.arange(self._offset, self._offset + len(own)), len(own)
            stamps = np.full(count, START, np.int64)
            topic = "bench-windows.events"
            yield Batch(lane, {topic: Records(topic, lane, [None] * count, own, [()] * count, places, stamps)})
        self._offset += len(values)


def resident() -> int:
    """Bytes of memory of this process."""
    return int(psutil.Process().memory_info().rss)


def measure(keys: int, count: int) -> None:
    """Print what the features cost."""
    plain, windowed, warm = Meter(""), Meter(FEATURES), Meter(FEATURES)
    for values in events(WARM, WARM, BATCH):  # what is made once for all, and is no key's
        warm.take(values)
    del warm
    before = resident()
    report = max(1, count // BATCH // 10)
    told = 0.0
    for number, values in enumerate(events(count, keys, BATCH), 1):
        windowed.take(values)
        if number % 8 == 0 or number < 40:  # enough for a median, side by side in time
            plain.take(values)
        if number % report == 0:
            held = sum(state.count(TABLE) for state in windowed.states) - LANES
            size = resident()
            each = (size - before) / held
            took = 1e6 * median(windowed.seconds[-report:]) / BATCH
            print(
                f"{number * BATCH:>11,} events: {took:.2f} us an event, {held:,} keys,"
                f" {size / 1e6:.0f} MB resident, {each:.0f} bytes a key",
                flush=True,
            )
            told = took
    alone = 1e6 * median(plain.seconds[-40:]) / BATCH
    print(f"without the features {alone:.2f} us, on top {told - alone:.2f} us an event")
    total = count // BATCH * BATCH
    print(f"changelog: {windowed.records / total:.3f} records and {windowed.bytes / total:.0f} bytes an event")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--beside", action="store_true")
    given = parser.parse_args()
    if given.beside:
        beside(given.keys, given.events, write_file, FEATURES, events)
    else:
        measure(given.keys, given.events)


if __name__ == "__main__":
    main()
