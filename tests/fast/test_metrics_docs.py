"""docs/metrics.md and the alerts speak of the metrics that there are."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from streamproc.metrics import REGISTRY

ROOT = Path(__file__).parents[2]
SUFFIXES = ("_total", "_bucket", "_sum", "_count", "")


def test_the_page_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_metrics_docs.py"))
    written = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert written == script["page"](), "run scripts/make_metrics_docs.py"


def test_every_metric_is_on_the_page_and_no_other() -> None:
    families = {family.name for family in REGISTRY.collect()}
    listed = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.removesuffix("_total") for name in listed} == families
    assert len(listed) == len(set(listed))


def test_alerts_name_metrics_that_exist() -> None:
    known = {family.name + suffix for family in REGISTRY.collect() for suffix in SUFFIXES}
    used = set(re.findall(r"\bstreamproc_\w+", (ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")))
    assert used
    assert used - known == set()
