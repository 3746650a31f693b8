# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "orjson ==3.13.0",
#   "quixstreams ==3.28.1",
# ]
# ///
"""Quix Streams' windows, as its documentation writes them: one sliding window of a day with four aggregates.

That is less than the five features of ``benchmarks.windows`` (one length, nothing of all time). Its state is in
RocksDB, with a changelog topic; at-least-once, its default.
"""

# mypy: disable-error-code="import-not-found,import-untyped,misc"
from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import orjson
from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Mean, Sum


def event_time(value: Any, headers: Any, timestamp: float, timestamp_type: Any) -> int:
    at: int = value["at"]
    return at


def run(address: str, source: str, output: str, windows: bool) -> None:
    app = Application(
        broker_address=address,
        consumer_group=output,
        auto_offset_reset="earliest",
        loglevel="WARNING",
        state_dir="state",
    )
    events = app.topic(source, value_deserializer="json", timestamp_extractor=event_time)
    rows = app.dataframe(events)
    if windows:
        window = rows.sliding_window(timedelta(hours=24), grace_ms=timedelta(hours=1))
        aggregates = window.agg(count=Count(), sum=Sum("amount"), mean=Mean("amount"), max=Max("amount"))
        rows = aggregates.current()
    rows = rows.apply(orjson.dumps)
    rows.to_topic(app.topic(output, value_serializer="bytes"))
    app.run()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "with")
