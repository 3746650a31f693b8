"""What a model learns from is what was decided with: `streamproc features` beside the decide processor."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from streamproc.core.decide import TABLES
from streamproc.core.processor import Batch, Records
from streamproc.offline import Offline
from streamproc.pipeline import open_pipeline
from tests import features_history
from tests.features_history import LANES, History

EVENTS, CARDS = 100_000, 700
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def decided(file: Path, made: History, seed: int) -> list[dict[str, Any]]:
    """The decisions of the history, lane by lane, in batches of random sizes."""
    pipeline, random = open_pipeline(file), np.random.default_rng(seed)
    offline = Offline(pipeline.processor, pipeline.answers.now, tables=TABLES, now=NOW)
    topic, found = pipeline.plan.events.topic, list[dict[str, Any]]()
    for lane, rows in enumerate(made.lanes()):
        first = 0
        while first < len(rows):
            own = rows[first : first + int(random.choice([1, 2, 7, 90, 1_000, 6_000]))]
            columns = [made.keys[row] for row in own], [made.values[row] for row in own], [()] * len(own)
            offsets = np.arange(first, first + len(own))
            effects = offline.process(Batch(lane, {topic: Records(topic, lane, *columns, offsets, made.written[own])}))
            for output in effects.records:
                if output.topic == pipeline.plan.topics.decisions:
                    found += [orjson.loads(value or b"") for value in output.values]
            first += len(own)
    return found


def test_every_feature_of_every_decision_is_that_of_the_file(tmp_path: Path) -> None:
    file = features_history.pipeline(tmp_path)
    made = features_history.history(EVENTS, CARDS, datetime(2026, 1, 1, tzinfo=UTC))
    assert all(made.lanes()) and len(made.lanes()) == LANES
    table = features_history.offline(file, made, tmp_path)
    assert EVENTS * 0.98 < len(table) < EVENTS  # some were bad, and some came again
    features_history.check(made, table, decided(file, made, seed=2))
