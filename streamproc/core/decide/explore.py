"""Exploring: a few events, chosen by chance and within a budget, are decided otherwise than the rules say.

It is the only way to see what, say, declining costs: of what was never approved nobody learns how it would have gone.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np
import polars as pl

from streamproc.core.decide.frame import Context, Frame, Stage
from streamproc.core.decide.verdict import Explored, Verdicts
from streamproc.core.plan import Plan
from streamproc.core.processor import Answer, Ask
from streamproc.core.review.policy import MILLION
from streamproc.core.review.sample import chosen

TABLE: Final = "explore"
KEY: Final = b"spent"
VERSION: Final = 1
OVER_BUDGET: Final = "over_budget"
"""How metrics count events that were chosen and not taken."""
EPOCH = datetime.fromtimestamp(0, UTC)


def explore_stage(plan: Plan, lanes: int) -> Stage:
    """Decides chosen events otherwise. Comes after the rules and the cap, and adds no column.

    ``lanes`` share the budget.
    """
    explore = plan.explore
    assert explore is not None

    def run(frame: Frame, context: Context) -> Generator[list[Ask], list[Answer], None]:
        if not len(frame):
            return
        assert frame.verdicts is not None
        distinct, of_row = frame.verdicts.distinct, frame.verdicts.of_row
        wanted = np.array([one.is_alone and one.decision == explore.instead_of for one in distinct])
        rows = np.flatnonzero(wanted[of_row])
        ids = pl.Series(frame.ids, dtype=pl.String).gather(rows)
        rows = rows[chosen(ids, explore.share, "explore")]
        places = np.searchsorted(frame.records.ends, frame.rows[rows], side="right")
        taken = list[int]()
        for lane in np.unique(places).tolist():
            partition = int(frame.records.partitions[frame.rows[rows[places == lane][0]]])
            allowed = explore.budget.of_lane(partition, lanes)
            taken += rows[places == lane][: _spend(frame, context, lane, allowed, int((places == lane).sum()))].tolist()
        if len(taken) < len(rows):
            frame.count("explored", OVER_BUDGET, len(rows) - len(taken))
        if not taken:
            return
        explored = Explored(explore.instead_of, explore.share / MILLION)
        made = {
            number: replace(distinct[number], decision=explore.decide, why="explored", explored=explored)
            for number in np.unique(of_row[taken]).tolist()
        }
        numbers = {number: len(distinct) + place for place, number in enumerate(made)}
        of_row = of_row.copy()
        of_row[taken] = [numbers[number] for number in of_row[taken].tolist()]
        frame.verdicts = Verdicts([*distinct, *made.values()], of_row)
        frame.count("explored", explore.decide, len(taken))
        return
        yield []

    def _spend(frame: Frame, context: Context, lane: int, allowed: int, wanted: int) -> int:
        """How many may be taken now; what is left of a period's budget is lost at its end."""
        [raw] = context.states[lane].get_many(TABLE, [KEY])
        period = (context.now - EPOCH) // explore.budget.period
        version, last, spent = (VERSION, period, 0) if raw is None else msgspec.msgpack.decode(raw)
        if version != VERSION:
            raise ValueError(f"a budget of version {version} is met, and this is for version {VERSION}")
        if last != period:
            spent = 0
        take = min(wanted, max(0, allowed - spent))
        if take:
            frame.change(lane, TABLE, {KEY: msgspec.msgpack.encode((VERSION, period, spent + take))})
        return take

    return Stage("explore", frozenset(), (), run)
