"""What review and stand-ins cost where nobody is asked: ``python -m benchmarks.review_cost``.

The full job, with its rules for review deciding otherwise, is decided with and without a review part (priority, audit
of 1 %, exploring, a stand-in, confidence), in turns and in one process. Prints medians of processor time, from events
to placed records, and the median of the ratios of neighbours. No broker.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from shutil import copytree
from typing import Any

from benchmarks.events import make_pool
from benchmarks.jobs import JOBS
from benchmarks.stages import NOW, PARTITIONS, fetched_as, router_of, taken
from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.processor import NOTHING_SEEN, Batch, process_lanes, run
from streamproc.core.state import Tables
from streamproc.pipeline import Pipeline, open_pipeline

TIMES = 21
REVIEW = """
confidence: ABS(score - 0.5) * 2
review:
  ttl: 4h
  on_expiry: decline
  priority: amount
  audit: 1%
  second_opinion: 5%
  explore: {instead_of: decline, decide: approve, share: 0.5%, budget: 20 per day}
actions:"""
STAND_IN = "model:\n  - {id: first, onnx: model.onnx, inputs: [INPUTS], timeout: 10s}\n" \
           "  - {id: second, onnx: model.onnx, inputs: [INPUTS], timeout: 10s}\n"  # fmt: skip


def pipelines(folder: Path) -> tuple[Pipeline, Pipeline]:
    """The job without review, and with all that it may have."""
    copytree(JOBS["full"].folder, folder, dirs_exist_ok=True)
    text = (folder / "pipeline.yaml").read_text(encoding="utf-8").replace("decide: review", "decide: approve")
    model = text[text.index("model:\n") : text.index("rules:\n")]
    inputs = model[model.index("[") + 1 : model.index("]")]
    more = text.replace("\nactions:", REVIEW).replace(model, STAND_IN.replace("INPUTS", inputs))
    found = []
    for name, content in (("bare.yaml", text), ("review.yaml", more)):
        (folder / name).write_text(content, encoding="utf-8")
        found.append(open_pipeline(folder / name))
    return found[0], found[1]


def measure(events: int) -> list[tuple[float, float]]:
    """Milliseconds of processor time without and with review, in turns."""
    pool = make_pool(JOBS["full"])
    with tempfile.TemporaryDirectory() as folder:
        steps = [_step(pipeline, pool, events) for pipeline in pipelines(Path(folder))]
        for step in steps:
            step()
        return [(steps[0](), steps[1]()) for _ in range(TIMES)]


def _step(pipeline: Pipeline, pool: Any, events: int) -> Any:
    plan, tables = pipeline.plan, TABLES
    processor = DecideProcessor.of(plan, lanes=PARTITIONS)
    router = router_of(plan)
    fetched = [fetched_as(range(number, events, PARTITIONS), pool) for number in range(PARTITIONS)]
    lanes = [taken(plan.events.topic, *one) for one in fetched]
    batches = [Batch(number, {plan.events.topic: records}) for number, records in enumerate(lanes)]

    def step() -> float:
        started = time.process_time()
        states = [Tables(tables) for _ in batches]
        effects = run(process_lanes(processor, batches, states, NOTHING_SEEN, NOW), pipeline.answers.now)
        router.place(list(enumerate(effects)))
        return (time.process_time() - started) * 1000

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=9_600, help="in a batch (default: 9,600)")
    events = parser.parse_args().events
    pairs = measure(events)
    bare, review = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(after / before for before, after in pairs)
    print(f"{'without review':16}{bare / events * 1000:8.2f} µs an event")
    print(f"{'with review':16}{review / events * 1000:8.2f} µs an event")
    print(f"{'ratio':16}{ratio:8.3f}")


if __name__ == "__main__":
    main()
