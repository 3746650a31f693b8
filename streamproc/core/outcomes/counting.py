"""Counting new decisions: into groups of windows, and into the rows that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamproc.core.outcomes.book import Book
from streamproc.core.outcomes.costs import Costs, micros
from streamproc.core.outcomes.decision import Slim, reason_of, scalar, values_of
from streamproc.core.outcomes.kept import ID_BYTES, Chunk
from streamproc.core.outcomes.measures import MILLION, Counts, Group, add, buckets, mark, segment_text
from streamproc.core.outcomes.policy import OutcomesPlan

ORDINARY: Final = frozenset({"rule", "explored"})
"""Reasons of decisions as they should be; of others the first and last moment are told too."""
MOST_SEGMENTS: Final = 10_000
TOLD: Final = ("rule", "plan", "model", "tier", "decision", "would_be", "why", "score_reason", "fallback_reason")
"""What a decision says of its group, in the order of that, and then why it is as it is."""


class Counter:
    """Counts the decisions of one plan."""

    def __init__(self, plan: OutcomesPlan, costs: Costs) -> None:
        self._plan, self._costs = plan, costs
        self._priced, self._reads = plan.priced, plan.reads
        segments = [f"features.c{number}" for number, _ in enumerate(plan.segments)]  # they are read first
        first = len(plan.reads)  # and prompts behind all that is read
        prompts = ["scored_by", *(f"features.c{first + number}" for number, _ in enumerate(plan.prompts))]
        self._told: Callable[[Slim], tuple[Any, ...]] = attrgetter(*TOLD, *segments, *(prompts if plan.prompts else ()))
        self._prompts = list(plan.prompts)
        self._segments: dict[tuple[Any, ...], str] = {}

    def count(self, book: Book, decisions: Sequence[Slim], stamps: NDArray[np.int64], counts: Counts) -> Chunk:
        """Count first decisions, made at these times in milliseconds, shape (n,); the rows that are to be kept."""
        rows, ids = _new(book, decisions) if decisions else ([], b"")
        add(counts, {"decision": len(rows), "repeated": len(decisions) - len(rows)})
        if len(rows) < len(decisions):
            decisions, stamps = [decisions[row] for row in rows], stamps[rows]
        if not decisions:
            return Chunk()
        stamps = np.minimum(stamps, 1000 * book.latest)
        columns = values_of(decisions, self._reads)
        windows = book.windows(stamps // 1000)
        book.meta.newest = max(book.meta.newest, int(stamps.max()))
        kinds = dict[Any, int]()
        told = map(self._told, decisions)
        try:
            codes = np.array([kinds.setdefault(kind, len(kinds)) for kind in told], np.int64)
        except TypeError:  # a list or an object, which is no segment
            kinds.clear()
            scalars = (tuple(map(scalar, self._told(one))) for one in decisions)
            codes = np.array([kinds.setdefault(kind, len(kinds)) for kind in scalars], np.int64)
        groups = self._place(book, windows, codes, list(kinds), stamps)
        born = np.array([one.source.timestamp for one in decisions], np.int64)
        _histogram(book, "decide/", windows, stamps - born)
        if self._costs and self._plan.score is not None:
            self._expect(book, decisions, columns, windows, groups)
        explored = {
            row: (one.explored.instead_of, one.explored.share)
            for row, one in enumerate(decisions)
            if one.explored is not None
        }
        for row in explored:
            add(_counts(book, windows, groups, row), {"explored": 1})
        priced = {name: list(map(scalar, columns[name])) for name in self._priced}
        return Chunk(ids, stamps, windows, groups, [one.key for one in decisions], priced, explored)

    def _place(
        self,
        book: Book,
        windows: NDArray[np.int64],
        codes: NDArray[np.int64],
        kinds: Sequence[Any],
        stamps: NDArray[np.int64],
    ) -> NDArray[np.uint16]:
        """The number of each row's group. Groups come into being in the order of the log, whatever a batch is."""
        starts, of_start = np.unique(windows, return_inverse=True)
        pairs, firsts, of_row = np.unique(of_start * len(kinds) + codes, return_index=True, return_inverse=True)
        numbers, many = np.zeros(len(pairs), np.uint16), np.bincount(of_row, minlength=len(pairs)).tolist()
        for place in np.argsort(firsts).tolist():
            start, code = divmod(int(pairs[place]), len(kinds))
            opened = book.opened(int(starts[start]))
            *told, why, score_reason, fallback_reason = kinds[code][: len(TOLD)]
            own = kinds[code][len(TOLD) :]
            segment = self._segment(own[: len(self._plan.segments)])
            prompt = self._prompt(*own[len(self._plan.segments) :])
            group = Group._make([segment, *told, reason_of(why, score_reason, fallback_reason), prompt])
            number = numbers[place] = opened.number(group)
            add(opened.counts(int(number)), {"decisions": many[place]})
            if group.reason not in ORDINARY:
                its = stamps[of_row == place]
                mark(opened.window.marks, group.reason, int(its.min()), int(its.max()))
                opened.own()
        return numbers[of_row]

    def _segment(self, values: tuple[Any, ...]) -> str:
        if values not in self._segments:
            if len(self._segments) >= MOST_SEGMENTS:
                self._segments.clear()
            self._segments[values] = segment_text(dict(zip(self._plan.segments, map(scalar, values), strict=False)))
        return self._segments[values]

    def _prompt(self, scored_by: Any = None, *prompts: Any) -> str | None:
        """The prompt of the language model that scored; where no model did, that of the first one."""
        if not prompts or (scored_by is not None and scored_by not in self._prompts):
            return None
        prompt = prompts[0 if scored_by is None else self._prompts.index(scored_by)]
        return prompt if isinstance(prompt, str) else None

    def _expect(
        self,
        book: Book,
        decisions: Sequence[Slim],
        columns: dict[str, list[Any]],
        windows: NDArray[np.int64],
        groups: NDArray[np.uint16],
    ) -> None:
        """What the decisions cost on average, if the score is the chance that its value comes true."""
        likely, [other] = self._plan.score, [value for value in self._plan.values if value != self._plan.score]
        assert likely is not None
        table = self._costs.table(columns, [None] * len(decisions))
        by_place: dict[tuple[str, int, int], list[int]] = {}
        places = zip(decisions, windows.tolist(), groups.tolist(), strict=True)
        for row, (one, start, number) in enumerate(places):
            if one.score is not None:
                by_place.setdefault((one.decision, start, number), []).append(row)
        for (decision, start, number), rows in by_place.items():
            chance = np.array([decisions[row].score for row in rows], np.float64)
            yes, no = (table.column(rows, decision, value) for value in (likely, other))
            with np.errstate(over="ignore", invalid="ignore"):  # of a score that is no chance
                costs = micros((chance * yes + (1 - chance) * no) / MILLION)
            known = list(map(int, costs[~np.isnan(costs)].tolist()))
            if known:
                squares = sum(cost * cost for cost in known)
                told = {"expected/sum": sum(known), "expected/squares": squares, "expected/n": len(known)}
                add(book.opened(start).counts(number), told)


def _counts(book: Book, windows: NDArray[np.int64], groups: NDArray[np.uint16], row: int) -> Counts:
    return book.opened(int(windows[row])).counts(int(groups[row]))


def _new(book: Book, decisions: Sequence[Slim]) -> tuple[list[int], bytes]:
    """The rows of decisions that were not counted before, and their ids."""
    raw, meta = _raw([one.id for one in decisions]), book.meta
    offsets = np.array([one.source.offset for one in decisions], np.int64)
    # An event is decided again only after its lane went back: offsets that go on are of events that are new.
    new = book.one_lane and int(offsets[0]) >= meta.next_offset and bool((np.diff(offsets) > 0).all())
    meta.next_offset = max(meta.next_offset, int(offsets.max()) + 1)
    if new:
        return list(range(len(decisions))), raw
    repeats = set(book.kept_already(raw).tolist())
    ids = [raw[at : at + ID_BYTES] for at in range(0, len(raw), ID_BYTES)]
    if not repeats and len(set(ids)) == len(ids):
        return list(range(len(ids))), raw
    maybe = sorted(repeats)
    there = {row for row, at in zip(maybe, book.find([ids[row] for row in maybe]), strict=True) if at >= 0}
    first = dict[bytes, int]()
    for row, own in enumerate(ids):
        if row not in there:
            first.setdefault(own, row)
    return list(first.values()), b"".join(first)


def _histogram(book: Book, name: str, windows: NDArray[np.int64], milliseconds: NDArray[np.int64]) -> None:
    places = buckets(milliseconds)
    for start in np.unique(windows).tolist():
        opened = book.opened(start)
        many = np.bincount(places[windows == start])
        add(opened.own(), {f"{name}{bucket}": int(many[bucket]) for bucket in np.flatnonzero(many).tolist()})


def _raw(ids: Sequence[str]) -> bytes:
    return bytes.fromhex("".join([one[-24:] for one in ids]))
