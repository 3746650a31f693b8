"""docs/metrics.md and the alerts speak of the metrics that there are."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import orjson
import yaml

from streamproc.metrics import DOOR_REGISTRY, REGISTRY

ROOT = Path(__file__).parents[2]
SUFFIXES = ("_total", "_bucket", "_sum", "_count", "")


def test_the_page_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_metrics_docs.py"))
    written = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert written == script["page"](), "run scripts/make_metrics_docs.py"


def test_every_metric_is_on_the_page_and_no_other() -> None:
    families = {family.name for registry in (REGISTRY, DOOR_REGISTRY) for family in registry.collect()}
    listed = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.removesuffix("_total") for name in listed} == families
    assert len(listed) == len(set(listed))


def test_the_dashboard_speaks_of_metrics_and_data_sources_that_exist() -> None:
    folder = ROOT / "deploy" / "grafana"
    sources = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    uids = {source["uid"] for source in sources["datasources"]}
    board = orjson.loads((folder / "dashboards/streamproc.json").read_bytes())
    known = {family.name + suffix for family in REGISTRY.collect() for suffix in SUFFIXES}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) > 8
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] in uids
        for target in panel["targets"]:
            assert target["datasource"]["uid"] in uids
            used = set(re.findall(r"\bstreamproc_\w+", target["expr"]))
            assert used and used <= known, (panel["title"], used - known)
    covered = [(x, y) for panel in board["panels"] for x, y in _cells(**panel["gridPos"])]
    assert len(set(covered)) == len(covered), "panels lie on one another"


def _cells(x: int, y: int, w: int, h: int) -> list[tuple[int, int]]:
    assert x + w <= 24
    return [(column, line) for column in range(x, x + w) for line in range(y, y + h)]


def test_alerts_name_metrics_that_exist() -> None:
    known = {family.name + suffix for family in REGISTRY.collect() for suffix in SUFFIXES}
    used = set(re.findall(r"\bstreamproc_\w+", (ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")))
    assert used
    assert used - known == set()
