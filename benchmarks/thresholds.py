"""What confidence is enough, by the size of the loan: ``python -m benchmarks.thresholds``.

Decides the example's applications of before the shift (rows 0 to 24,999 of the analysis file) and joins what became of
them. Prints how often a decision of a given confidence would have been wrong, what that costs, and what the pipeline
sends to people.
"""

from __future__ import annotations

import math
from itertools import islice

import orjson
import polars as pl

from streamproc.core.decide import TABLES
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import open_pipeline
from streamproc.sample import car_loans, example

BEFORE = 25_000
LOST = 0.4
"""Of what was financed, where a loan is not repaid that was approved: an assumption, and the business's to make."""
SIZES = ((0, 20_000), (20_000, 60_000), (60_000, 90_000), (90_000, 200_000))
CONFIDENCES = ((0.4, 0.5), (0.55, 0.65), (0.75, 0.85), (0.9, 0.94), (0.95, 1.0))


def decided() -> pl.DataFrame:
    """One row per application: its size, score, confidence, decision, and whether it was repaid."""
    pipeline = open_pipeline(example("car_loan") / "pipeline.yaml")
    offline = Offline(pipeline.processor, pipeline.answers.now, tables=TABLES)
    rows = pl.read_csv(car_loans().analysis, infer_schema_length=None).head(BEFORE)
    values = [orjson.dumps(row) for row in rows.iter_rows(named=True)]
    found = []
    for begin in range(0, len(values), 5_000):
        effects = offline.process(
            batch_of(pipeline.plan.events.topic, values[begin : begin + 5_000], first_offset=begin)
        )
        for output in islice((one for one in effects.records if one.topic == pipeline.plan.topics.decisions), 1):
            found += [orjson.loads(value or b"{}") for value in output.values]
    table = pl.DataFrame(
        {
            "id": [int(one["key"]) for one in found],
            "size": [one["features"]["car_value"] for one in found],
            "financed": [one["features"]["financed"] for one in found],
            "score": [one["score"] for one in found],
            "confidence": [one["confidence"] for one in found],
            "decision": [one["decision"] for one in found],
        }
    )
    outcomes = pl.read_csv(car_loans().outcomes).with_columns(pl.col("repaid") > 0.5)
    return table.join(outcomes, on="id")


def main() -> None:
    """Print both tables."""
    table = decided().with_columns(wrong=(pl.col("score") >= 0.5) != pl.col("repaid"))
    approved = table.filter(pl.col("score") >= 0.5)
    print("approvals by confidence and size: not repaid, of how many, and what one may lose on average at most")
    print(f"{'confidence':>12} " + " ".join(f"{_size(size):>22}" for size in SIZES))
    for low, high in CONFIDENCES:
        cells = []
        for size in SIZES:
            some = _within(approved, size).filter(pl.col("confidence").is_between(low, high, closed="left"))
            wrong, count = int(some["wrong"].sum()), max(1, len(some))
            lost = upper(wrong, count) * LOST * float(some["financed"].mean() or 0)  # type: ignore[arg-type]
            cells.append(f"{wrong / count:6.1%} of {count:5} {lost:7,.0f}")
        print(f"{low:6.2f}-{high:.2f}  " + " ".join(f"{cell:>22}" for cell in cells))
    print("\nthe pipeline: what it sends to people, and how often it is wrong in the rest")
    for size in SIZES:
        some = _within(table, size)
        own = some.filter(pl.col("decision") != "review")
        reviewed = (some["decision"] == "review").mean()
        print(f"{_size(size):>16} {len(some):6} applications {reviewed:6.1%} reviewed {own['wrong'].mean():6.1%} wrong")
    print(f"{'all':>16} {len(table):6} applications {(table['decision'] == 'review').mean():6.1%} reviewed")


def upper(wrong: int, count: int) -> float:
    """The upper end of Wilson's interval of 95 % for a share (Wilson 1927)."""
    share, z = wrong / count, 1.96
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle + half) / (1 + z * z / count)


def _within(table: pl.DataFrame, size: tuple[int, int]) -> pl.DataFrame:
    return table.filter(pl.col("size").is_between(*size, closed="left"))


def _size(size: tuple[int, int]) -> str:
    return f"{size[0] // 1000}k-{size[1] // 1000}k" if size[1] < SIZES[-1][1] else f"{size[0] // 1000}k and more"


if __name__ == "__main__":
    main()
