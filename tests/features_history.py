"""A history for what must be equal online and offline: late events, repeated and bad ones, features of every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import orjson
import polars as pl

from streamproc.cli import main
from streamproc.core.partitioner import partitions
from streamproc.core.windows.policy import Aggregate

LANES = 3
SCHEMA = {
    "type": "object",
    "required": ["id", "card", "amount", "at"],
    "properties": {
        "id": {"type": "integer"},
        "card": {"type": "integer"},
        "amount": {"type": "number"},
        "at": {"type": "integer"},
        "country": {"type": ["string", "null"]},
    },
}
PIPELINE = """
pipeline: {name}
events: {{topic: {name}.events, schema: event.schema.json, key: card, time: at, id: id, dedupe: 1h}}
windows: {{lateness: 10m, ttl: 2d}}
features:
  large: amount > 20
{windows}
  to_usual: amount / mean_ever
rules:
  - {{id: unusual, when: zscore_1h > 3 AND large, decide: review}}
  - {{id: rest, decide: approve}}
actions: {{approve: {name}.approved}}
"""
MINUTE = 60_000
OF = {"count": "", "rate": "", "time_since_last": "", "distinct": ", of: country"}


@dataclass(frozen=True)
class History:
    """Values in the order in which they arrive, their keys, and when they were written (milliseconds)."""

    values: list[bytes]
    keys: list[bytes]
    written: np.ndarray[Any, np.dtype[np.int64]]

    def lanes(self) -> list[list[int]]:
        """The rows of each lane, in their order."""
        places = partitions(self.keys, LANES, 0)
        return [np.flatnonzero(places == lane).tolist() for lane in range(LANES)]


def pipeline(folder: Path, name: str = "h") -> Path:
    """A pipeline file with every aggregate, over an hour and over all there was."""
    lines = []
    for aggregate in get_args(Aggregate):
        of = {"count": "", "rate": "", "time_since_last": "", "distinct": ", of: country"}.get(
            aggregate, ", of: amount"
        )
        lines.append(f"  {aggregate}_1h: {{window: 1h, by: card, agg: {aggregate}{of}}}")
        lines.append(f"  {aggregate}_large: {{window: 5m, by: card, agg: {aggregate}{of}, where: large, exact: true}}")
        if aggregate not in ("rate", "distinct"):
            lines.append(f"  {aggregate}_ever: {{by: card, agg: {aggregate}{of}, include_self: true}}")
    lines.append("  of_country: {window: 1h, by: country, agg: count}")
    (folder / "event.schema.json").write_bytes(orjson.dumps(SCHEMA))
    file = folder / "pipeline.yaml"
    file.write_text(PIPELINE.format(name=name, windows="\n".join(lines)), encoding="utf-8")
    return file


def history(count: int, cards: int, begin: datetime, seed: int = 1) -> History:
    """So many events, 200 ms apart on average: each fifth is late, some by more than is allowed; some come again."""
    random = np.random.default_rng(seed)
    times = int(begin.timestamp() * 1000) + np.cumsum(random.exponential(200, count)).astype(np.int64)
    late = random.random(count)
    times -= np.where(late < 0.2, random.integers(0, 8, count) * MINUTE, 0)
    times -= np.where(late < 0.02, random.integers(0, 40, count) * MINUTE, 0)
    ids = np.arange(count)
    again = random.random(count) < 0.01
    ids[again] -= np.minimum(random.integers(1, 60_000, count), ids)[again]
    owners = ids * 7919 % 104_729 % cards  # what comes again is of the same card
    amounts = np.round(random.lognormal(2, 1, count), 2)
    countries = random.choice(["NL", "DE", "FR", "BE"], count)
    values, keys = list[bytes](), list[bytes]()
    for number in range(count):
        event = {
            "id": int(ids[number]),
            "card": int(owners[number]),
            "amount": float(amounts[number]),
            "at": int(times[number]),
            "country": None if number % 17 == 0 else str(countries[number]),
        }
        if number % 501 == 500:
            event["amount"] = "much"
        values.append(orjson.dumps(event))
        keys.append(b"%d" % owners[number])
    return History(values, keys, times)


def offline(file: Path, made: History, folder: Path) -> pl.DataFrame:
    """What `streamproc features` writes of a history."""
    rows, out = folder / "history.ndjson", folder / "train.parquet"
    rows.write_bytes(b"".join(value + b"\n" for value in made.values))
    try:
        main(["features", str(file), str(rows), "--out", str(out), "--lanes", str(LANES)])
    except SystemExit as ended:
        assert not ended.code
    return pl.read_parquet(out)


def check(made: History, table: pl.DataFrame, decisions: Sequence[Mapping[str, Any]]) -> None:
    """Every decision has the features that stand in the table, and every row of the table is of a decision."""
    lanes, found = made.lanes(), {}
    for decision in decisions:
        source = decision["source"]
        found[lanes[source["partition"]][source["offset"]]] = decision
    assert sorted(found) == table["row"].to_list()
    assert len(found) == len(decisions)
    for row in table.iter_rows(named=True):
        decision = found[row["row"]]
        assert datetime.fromisoformat(decision["time"]) == row["event_time"].astimezone(UTC)
        assert str(decision["key"]) == str(row["key"])
        shown = decision["features"]
        assert {"zscore_1h", "std_large", "last_ever", "of_country", "to_usual"} <= set(shown)
        wrong = {name: (row[name], value) for name, value in shown.items() if row[name] != value}
        assert not wrong, (row["row"], wrong)
