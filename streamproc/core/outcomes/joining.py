"""Joining what comes later with the decision that it is about: revisions of it, and what came true."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final, TypeAlias

import numpy as np
from msgspec.structs import replace

from streamproc.core.outcomes import early
from streamproc.core.outcomes.book import Book
from streamproc.core.outcomes.costs import Costs, CostTable, Money
from streamproc.core.outcomes.decision import Slim, id_bytes
from streamproc.core.outcomes.kept import Chunk
from streamproc.core.outcomes.known import VERSION, Known, change
from streamproc.core.outcomes.measures import Counts, Group, add, buckets
from streamproc.core.outcomes.outcome import Outcome
from streamproc.core.outcomes.policy import WOULD_BE, OutcomesPlan

UNDECLARED: Final = "?"
"""Stands for every value that the pipeline does not name."""
Found: TypeAlias = tuple[int, "Slim | Outcome"]
"""The position of a decision, and what is said of it."""


class Joiner:
    """Joins for one plan."""

    def __init__(self, plan: OutcomesPlan, costs: Costs) -> None:
        self._plan, self._costs = plan, costs

    def revise(self, book: Book, revisions: Sequence[Slim], counts: Counts) -> None:
        """Take decisions that people or time made after automation had."""
        places = book.find([id_bytes(one.id) for one in revisions])
        found = [(at, one) for at, one in zip(places, revisions, strict=True) if at >= 0]
        add(counts, {"revision": len(found), "revision_of_unknown": len(revisions) - len(found)})
        self._apply(book, found, counts)

    def come(self, book: Book, outcomes: Sequence[tuple[Outcome, int]], counts: Counts) -> None:
        """Take outcomes, each with the timestamp of its record in milliseconds."""
        ids = [(number, bytes.fromhex(one.id[-24:])) for number, (one, _) in enumerate(outcomes) if one.id is not None]
        keys = [(number, one.key) for number, (one, _) in enumerate(outcomes) if one.id is None and one.key is not None]
        places = dict(zip([number for number, _ in ids], book.find([own for _, own in ids]), strict=True))
        if keys:
            of_keys = book.find_keys([key for _, key in keys])
            places |= dict(zip([number for number, _ in keys], of_keys, strict=True))
        names = {number: early.by_id(own) for number, own in ids} | {number: early.by_key(key) for number, key in keys}
        found = [(places[number], one) for number, (one, _) in enumerate(outcomes) if places.get(number, -1) >= 0]
        waiting = [
            (names[number], one, stamp)
            for number, (one, stamp) in enumerate(outcomes)
            if number in names and places[number] < 0
        ]
        if waiting:
            add(counts, {"early": len(waiting), "early_left": early.park(book, waiting)})
        self._apply(book, found, counts)

    def arrived(self, book: Book, rows: Chunk, counts: Counts) -> None:
        """Join new decisions, which are kept by now, with outcomes that came before them."""
        meta = book.meta
        if not meta.early_by_id.waiting and not meta.early_by_key.waiting:
            return
        ids = [rows.id(row) for row in range(len(rows))]
        waiting = dict(zip(ids, early.take(book, [early.by_id(own) for own in ids]), strict=True))
        keyed = [row for row, key in enumerate(rows.keys) if key is not None]
        names = [early.by_key(rows.keys[row] or "") for row in keyed]
        since = [stamp - early.WAIT for stamp in rows.stamps[keyed].tolist()]
        for row, outcome in zip(keyed, early.take(book, names, since), strict=True):  # the last word counts
            waiting[ids[row]] = max(filter(None, (waiting[ids[row]], outcome)), key=itemgetter(0), default=None)
        found = [(own, told[1]) for own, told in waiting.items() if told is not None]
        places = book.find([own for own, _ in found])
        self._apply(book, [(at, outcome) for at, (_, outcome) in zip(places, found, strict=True)], counts)

    def _apply(self, book: Book, found: Sequence[Found], counts: Counts) -> None:
        """Change what is known of decisions, one after the other, and what is counted because of it."""
        if not found:
            return
        rows = [book.row(at) for at, _ in found]
        ids = [chunk.id(row) for chunk, row in rows]
        before = dict(zip(ids, book.known(ids), strict=True))
        amounts = [
            said.amount if isinstance(said, Outcome) else None if (was := before[own]) is None else was.amount
            for (_, said), own in zip(found, ids, strict=True)
        ]
        table, joined, again = self._costs.table(self._columns(rows), amounts), 0, 0
        for number, ((_, said), (chunk, row), own) in enumerate(zip(found, rows, ids, strict=True)):
            opened = book.opened(int(chunk.windows[row]))
            group = opened.order[int(chunk.groups[row])]
            explored = chunk.explored.get(row)
            was = before[own] or Known(VERSION, group.decision, "own" if explored is None else "explored")
            if isinstance(said, Outcome):
                now = _came(was, said, self._plan)
                joined += 1
                again += was.value is not None
                add(counts, {f"came:{now.decision}/{now.value}": 1})
            elif said.revision <= was.revision:
                add(counts, {"revision_repeated": 1})
                continue
            else:
                now = _revised(was, said, group)
                add(counts, {f"overrides:{now.decision}": int(now.overrides or 0)})
                if said.review is not None and said.why == "verdict":
                    spent = round((said.review.decided - said.review.opened).total_seconds() * 1000)
                    add(opened.own(), {f"verdict/{buckets(np.array([spent]))[0]}": 1})
            now = self._priced(now, group, explored, table, number)
            change(opened.counts(int(chunk.groups[row])), was, now)
            before[own] = now
            book.know(own, now)
        add(counts, {"joined": joined, "replaced": again})

    def _columns(self, rows: Sequence[tuple[Chunk, int]]) -> dict[str, list[Any]]:
        return {
            name: [chunk.columns[name][row] if name in chunk.columns else None for chunk, row in rows]
            for name in self._plan.priced
        }

    def _priced(
        self, now: Known, group: Group, explored: tuple[str, float] | None, table: CostTable, row: int
    ) -> Known:
        """With what it costs, as far as that can be told."""
        if now.value is None or not self._costs:
            return now
        plan, value = self._plan, now.value
        realised = table.cost(row, now.decision, value)
        baseline: Money = None
        if plan.baseline is not None and plan.baseline.decision is not None:
            instead = group.would_be if plan.baseline.decision == WOULD_BE else plan.baseline.decision
            baseline = None if instead is None else table.cost(row, instead, value)
        regret, weight = None, 1.0
        if explored is not None and now.by == "explored" and realised is not None:
            instead, share = explored
            declined = table.cost(row, instead, value)
            regret, weight = None if declined is None else declined - realised, 1 / share
        return replace(now, realised=realised, baseline=baseline, regret=regret, weight=weight)


def _came(was: Known, said: Outcome, plan: OutcomesPlan) -> Known:
    value = text(said.value)
    return replace(was, value=value if value in plan.values else UNDECLARED, amount=said.amount)


def _revised(was: Known, said: Slim, group: Group) -> Known:
    by = said.tier if said.tier in ("reviewer", "expiry") else "own"
    differs = None if by != "reviewer" or group.would_be is None else said.decision != group.would_be
    return replace(was, decision=said.decision, by=by, revision=said.revision, why=said.why, overrides=differs)


def text(value: str | bool | int | float) -> str:
    """An outcome's value as the pipeline file names it.

    >>> text(True), text(1.0), text("repaid")
    ('true', '1', 'repaid')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
