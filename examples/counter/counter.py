"""A processor of one's own: how often each key was seen, kept in lane state, exactly once.

Run it with Kafka's address in STREAMPROC_KAFKA: ``python examples/counter/counter.py orders totals``
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

import orjson

from streamproc import Agent, Batch, Effects, Output, Seen, State, Steps, run_agents

TABLE = "counts"


class Counter:
    """Counts records by key and tells every count; by the clock, it tells how many records each lane has seen."""

    def __init__(self, source: str, target: str, every: timedelta = timedelta(seconds=10)) -> None:
        self._source, self._target, self._every = source, target, every

    def process(self, batch: Batch, state: State, seen: Seen, now: datetime) -> Steps:
        """One record of the new count for each record of the batch."""
        records = batch.topics[self._source]
        keys = [key or b"" for key in records.keys]
        distinct = list(dict.fromkeys(keys))
        known = zip(distinct, state.get_many(TABLE, distinct), strict=True)
        counts = {key: int(value or 0) for key, value in known}
        values: list[bytes | None] = []
        for key, offset in zip(keys, records.offsets.tolist(), strict=True):
            counts[key] += 1
            values.append(orjson.dumps({"count": counts[key], "partition": batch.partition, "offset": offset}))
        changes = {key: b"%d" % count for key, count in counts.items()}
        output = Output(self._target, list(records.keys), values, [()] * len(values))
        return Effects(records=[output], state={TABLE: changes})
        yield []  # a processor is a generator: this one has nothing to ask

    def tick(self, state: State, seen: Seen, now: datetime) -> Steps:
        """Nothing to send, but call again: a place for time-outs and summaries."""
        return Effects(wake_at=now + self._every)
        yield []


def main() -> None:
    """Count SOURCE into TARGET."""
    source, target = sys.argv[1:3]
    agent = Agent("counter", (source,), Counter(source, target), tables=(TABLE,), writes=(target,))
    run_agents(f"{source}-counter", [agent])


if __name__ == "__main__":
    main()
