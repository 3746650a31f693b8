"""Writes docs/metrics.md from the metrics in the code: ``uv run python scripts/make_metrics_docs.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from streamproc import metrics

TARGET = Path(__file__).parents[1] / "docs" / "metrics.md"

HEAD = """\
<!-- Made by scripts/make_metrics_docs.py from streamproc/metrics.py. Do not edit. -->
# Metrics

A worker that was started with `--web-port` serves these under `/metrics` in Prometheus' text format, for its own
process alone: sum over workers. With `--workers N`, worker n (from 0) serves them on the given port + n. Events,
decisions, dead letters and latency are counted when their batch is committed, so what was discarded and run again is
counted once. A worker that is started again begins at zero. deploy/prometheus has a configuration and alerts to begin
with.

Measures of business are not here but for two counters (`streamproc_came_total`, `streamproc_overrides_total`): an
outcome that comes weeks later changes the count of an earlier window, which a counter cannot say. Error rates,
intervals, money and how long cases have waited are told by `streamproc stats` and stand on PIPELINE.metrics
([outcomes.md](outcomes.md)).

| metric | type | labels | what it is |
|---|---|---|---|
"""


DOOR = """
## Of a door

`streamproc serve` serves these under `/metrics`, for its own process alone; a key needs the scope `metrics`
([serve.md](serve.md)).

| metric | type | labels | what it is |
|---|---|---|---|
"""


def rows(registry: CollectorRegistry) -> list[str]:
    """One row of the table per metric, by name."""
    collectors: dict[Any, None] = dict.fromkeys(registry._collector_to_names)
    return sorted(_row(collector) for collector in collectors)


def _row(collector: Any) -> str:
    family = next(iter(collector.collect()))
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ()))
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


def page() -> str:
    """The whole page."""
    worker, door = ("\n".join(rows(registry)) + "\n" for registry in (metrics.REGISTRY, metrics.DOOR_REGISTRY))
    return HEAD + worker + DOOR + door


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
