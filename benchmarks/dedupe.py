"""What it costs to know the ids of events: ``python -m benchmarks.dedupe [--ids 1000000]``.

Processor time of the dedupe stage alone, where no event is a duplicate; and the bytes of what a lane remembers, in its
state and beside it: at rest, at most while it grows, and at most while a lane is opened.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple

import numpy as np

from streamproc.core.contract import Contract
from streamproc.core.decide.dedupe import dedupe_stage
from streamproc.core.decide.events import contract_stage
from streamproc.core.decide.frame import Context, Frame, LanesRecords
from streamproc.core.dedupe.chunk import DIGEST_BYTES, Chunk
from streamproc.core.dedupe.memory import TABLE, Memory
from streamproc.core.plan import Events, Plan
from streamproc.core.processor import NOTHING_SEEN, Records, run
from streamproc.core.state import Tables

TOPIC, ID_BYTES = "bench.events", 16
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = int(NOW.timestamp() * 1000) - 10**7
SCHEMA = {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}


class Cost(NamedTuple):
    """Microseconds of processor time an event, the mean of all and of the last tenth."""

    mean: float
    last: float


class Sizes(NamedTuple):
    """Bytes: at rest, at most while it grew, and at most while a lane with all of it is opened."""

    rest: int
    growing: int
    opening: int


def measure(ids: int, lanes: int, batch: int) -> Cost:
    """The cost of so many ids in all, in batches of so many events from each lane."""
    events = Events(TOPIC, id="id", dedupe=timedelta(days=1))
    plan = Plan("bench", "", events, Contract(SCHEMA), (), {})
    contract, dedupe, chance = contract_stage(plan), dedupe_stage(plan), Random(7)
    states, spent = [Tables([TABLE]) for _ in range(lanes)], list[float]()
    for first in range(0, ids // lanes, batch):
        offsets = np.arange(first, first + batch)
        parts = [
            Records(TOPIC, lane, [None] * batch, values(batch, chance), [()] * batch, offsets, FIRST + offsets)
            for lane in range(lanes)
        ]
        frame, context = Frame(LanesRecords.of(parts)), Context(NOW, NOTHING_SEEN, states)
        run(contract.run(frame, context), None)
        started = time.process_time()
        run(dedupe.run(frame, context), None)
        spent.append((time.process_time() - started) / (batch * lanes) * 1e6)
        for lane, state in enumerate(states):
            state.apply(frame.changes[lane])
    last = spent[-max(1, len(spent) // 10) :]
    return Cost(sum(spent) / len(spent), sum(last) / len(last))


def weigh(ids: int, batch: int) -> Sizes:
    """What one lane takes that remembers so many ids, which came in batches."""
    chance, span = Random(7), 86_400_000
    tracemalloc.start()
    state, memory = Tables([TABLE]), Memory(span, ids)
    for first in range(0, ids, batch):
        offsets = np.arange(first, first + batch)
        times = FIRST + offsets
        memory.begin(state, first)
        memory.take(Chunk(chance.randbytes(DIGEST_BYTES * batch), offsets, times, times), times)
        state.apply({TABLE: memory.end(int(times[-1]), first + batch)})
    rest, growing = tracemalloc.get_traced_memory()
    del memory
    tracemalloc.reset_peak()
    Memory(span, ids).begin(state, ids)
    opening = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Sizes(rest, growing, opening)


def values(count: int, chance: Random) -> list[bytes | None]:
    return [b'{"id":"%s"}' % chance.randbytes(ID_BYTES).hex().encode() for _ in range(count)]


def main() -> None:
    """Print a line for each size of batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=1_000_000, help="of one lane, and of twelve (default: 1,000,000)")
    ids = parser.parse_args().ids
    for lanes, batch, share in ((1, 4_000, 1), (12, 800, 1), (12, 3, 20)):
        cost = measure(ids // share, lanes, batch)
        print(f"{lanes} lanes, {batch} events of each: {cost.mean:.2f} µs an event, {cost.last:.2f} at the end")
    for count in (ids, 4 * ids):
        rest, growing, opening = (size / count for size in weigh(count, 1_000))
        print(f"{count:,} ids: {rest:.1f} bytes an id, at most {growing:.1f} as they grow, {opening:.1f} while opening")


if __name__ == "__main__":
    main()
