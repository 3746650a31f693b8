"""Decisions, steps of review and outcomes for tests, and a lane that takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson
import polars as pl

from streamproc.core.expressions import compile_expression
from streamproc.core.outcomes import measures
from streamproc.core.outcomes.book import TABLE
from streamproc.core.outcomes.measures import Window
from streamproc.core.outcomes.policy import AMOUNT, BaselinePlan, OutcomesPlan
from streamproc.core.outcomes.processor import OutcomeProcessor
from streamproc.core.processor import NOTHING_SEEN, Batch, Effects, Records, run
from streamproc.core.records import VERSIONS, Topics
from streamproc.core.state import Tables

TOPICS = Topics.of("t")
START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
COLUMNS = {"financed": pl.Float64(), "region": pl.String()}


@cache
def _plan() -> OutcomesPlan:
    types = {**COLUMNS, AMOUNT: pl.Float64()}
    texts = {
        "approve": {"repaid": "-0.05 * financed", "defaulted": "COALESCE(outcome_amount, 0.6 * financed)"},
        "decline": {"repaid": "0.02 * financed", "defaulted": "0"},
    }
    costs = {
        decision: {value: compile_expression(text, types, finite=True, want="number") for value, text in row.items()}
        for decision, row in texts.items()
    }
    return OutcomesPlan(
        values=("repaid", "defaulted"),
        errors={"approve": frozenset({"defaulted"}), "decline": frozenset({"repaid"})},
        costs=costs,
        score="repaid",
        unlabelled=frozenset({"decline"}),
        segments=("region",),
        columns=types,
        baseline=BaselinePlan("all", "approve"),
    )


def make_plan(**more: Any) -> OutcomesPlan:
    """Loans, with a cost matrix."""
    return replace(_plan(), **more)


def cost(decision: str, value: str, features: Mapping[str, Any], amount: float | None) -> float | None:
    """The same matrix in plain Python."""
    financed = features.get("financed")
    if decision == "approve" and value == "defaulted" and amount is not None:
        return amount
    if (decision, value) == ("decline", "defaulted"):
        return 0.0
    factor = {("approve", "repaid"): -0.05, ("approve", "defaulted"): 0.6, ("decline", "repaid"): 0.02}
    if financed is None or (decision, value) not in factor:
        return None
    return factor[decision, value] * financed


def id_of(number: int, lane: int = 0) -> str:
    return f"{lane}-{blake2b(b'%d' % number, digest_size=12).hexdigest()}"


def decision(number: int, *, lane: int = 0, at: int = START_MS, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": id_of(number, lane),
        "source": {"topic": "t.events", "partition": lane, "offset": number, "timestamp": at - number % 7 * 100},
        "key": f"k{number}",
        "time": "2026-01-01T00:00:00.000000Z",
        "decision": "approve",
        "tier": "automatic",
        "why": "rule",
        "rule": "good",
        "would_be": "approve",
        "score": 0.75,
        "score_reason": None,
        "features": {"financed": 1000.0 + number, "region": "north", "other": [1]},
        "plan": "0" * 32,
        "model": "m1",
    }
    return made | more


def revision(number: int, revision: int, decided: str, *, lane: int = 0, **more: Any) -> dict[str, Any]:
    opened = START + timedelta(seconds=number)
    told = {"opened": opened.isoformat(), "decided": (opened + timedelta(seconds=90 * revision)).isoformat()}
    settings = {"revision": revision, "decision": decided, "tier": "reviewer", "why": "verdict", "review": told}
    return decision(number, lane=lane, **(settings | more))


def lane_records(topic: str, rows: Sequence[tuple[Any, int]], first: int = 0, lane: int = 0) -> Records:
    values: list[bytes | None] = [row if isinstance(row, bytes) else orjson.dumps(row) for row, _ in rows]
    count = len(rows)
    offsets = np.arange(first, first + count, dtype=np.int64)
    return Records(
        topic, lane, [None] * count, values, [()] * count, offsets, np.array([at for _, at in rows], np.int64)
    )


class Lane:
    """One lane of the outcome agent: what it is given is committed, unless ``lose`` says otherwise. Its clock goes with
    the records, unless ``now`` says otherwise."""

    def __init__(self, plan: OutcomesPlan, lane: int = 0) -> None:
        self.plan, self.number = plan, lane
        self.processor = OutcomeProcessor("t", plan)
        self.tables = Tables([TABLE])
        self.offsets: dict[str, int] = {}
        self.records: dict[bytes, bytes] = {}
        self.counts: dict[str, int] = {}

    def restart(self) -> None:
        self.processor = OutcomeProcessor("t", self.plan)

    def give(
        self, topics: Mapping[str, Sequence[tuple[Any, int]]], *, lose: bool = False, now: datetime | None = None
    ) -> Effects:
        batch = {
            topic: lane_records(topic, rows, self.offsets.get(topic, 0), self.number)
            for topic, rows in topics.items()
            if rows
        }
        last = max((int(rows.timestamps.max()) for rows in batch.values()), default=START_MS)
        at = datetime.fromtimestamp(last / 1000, UTC) if now is None else now
        effects = run(self.processor.process(Batch(self.number, batch), self.tables, NOTHING_SEEN, at), None)
        if not lose:
            self._commit(effects)
            for topic, rows in topics.items():
                self.offsets[topic] = self.offsets.get(topic, 0) + len(rows)
        return effects

    def tick(self) -> Effects:
        effects = run(self.processor.tick(self.tables, NOTHING_SEEN, START), None)
        self._commit(effects)
        return effects

    def _commit(self, effects: Effects) -> None:
        self.tables.apply(effects.state)
        for (_, name), count in effects.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        for output in effects.records:
            assert output.topic == TOPICS.metrics
            self.records |= {key: value for key, value in zip(output.keys, output.values, strict=True) if key and value}

    def windows(self) -> dict[int, Window]:
        """What its records say, after all of them are written."""
        while (effects := self.tick()).records:
            assert effects.state
        found = (measures.loads(value, VERSIONS["measures"])[1] for value in self.records.values())
        return {window.start: window for window in found}


def rows_of(values: Iterable[Mapping[str, Any]], at: int = START_MS) -> list[tuple[Any, int]]:
    return [(value, at) for value in values]
