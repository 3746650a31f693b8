"""What language models spend, where lanes keep the account of it.

An ask is reserved row by row in the order of events, and settled by what the answer says that it took; what was spent
in a period is kept in the transaction of the decisions. A batch that is run again begins with what was committed, so
nothing is counted twice. Each lane has its part of the money.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final, TypeAlias

import msgspec
import numpy as np

from streamproc.core.decide.asking import Asking, AskingInWords
from streamproc.core.decide.frame import Context, Frame
from streamproc.core.llm.budget import MILLION, TOKENS_OF, Account, Ledger, Limit, Part, name_of
from streamproc.core.llm.budget import MONEY as MONEY_OF
from streamproc.core.llm.policy import MONEY, TOKENS
from streamproc.core.llm.request import BUDGET_KEY, INPUT_BOUND, MOST_CALLS, MOST_TOKENS
from streamproc.core.processor import Answer
from streamproc.core.review.policy import Allowance
from streamproc.core.versioned import read_kept

TABLE: Final = "spent"
VERSION: Final = 1
CLOCK: Final = b""
"""The entry that says when the next one is of no use any more."""
SWEPT: Final = 1_000
"""So many entries of old periods go in a batch at most."""
EXTRA_CALLS: Final = 6
"""So many calls there can be for a row, with second ones and further attempts."""
NOT_CALLED: Final = frozenset({"busy", "breaker_open"})
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime.fromtimestamp(0, UTC)

_Place: TypeAlias = "tuple[int, bytes]"
"""A lane of the batch, and the key of an entry in its table."""


class Kept(msgspec.Struct, array_like=True):
    """What was spent in the period that ends at ``until``, in µs since the epoch."""

    version: int
    until: int
    spent: int


_encode = msgspec.msgpack.Encoder().encode


class Spending:
    """The accounts of a batch's lanes. Models whose account is kept elsewhere, or that have none, pass."""

    def __init__(self, frame: Frame, context: Context, lanes: int) -> None:
        self._frame, self._context, self._lanes = frame, context, lanes
        self._now = (context.now - EPOCH) // MICROSECOND
        # Time stands still within a batch, so what is reserved stays so until it is settled.
        self._ledger = Ledger(ttl=1)
        self._limits = dict[_Place, Limit]()
        self._raw = dict[_Place, bytes | None]()  # as it was committed

    @cached_property
    def _lane_of(self) -> list[int]:
        """By row of the frame; most pipelines never ask."""
        lanes: list[int] = np.searchsorted(self._frame.records.ends, self._frame.rows, side="right").tolist()
        return lanes

    def reserved(self, asking: Asking) -> Asking:
        """How a model is asked within what there is: first a call for each row in their order, then further ones."""
        if not (isinstance(asking, AskingInWords) and _counts(asking)):
            return asking
        wanted = [self._parts(asking, place, *_bound(asking, place)) for place in range(len(asking.asked))]
        self._load([part for parts in wanted for part in parts])
        allowed = [0] * len(wanted)
        for calls in range(1, EXTRA_CALLS + 1):
            for place, parts in enumerate(wanted):
                several = [Part(part.account, part.limit, calls * part.amount) for part in parts]
                if allowed[place] == calls - 1 and self._ledger.reserve(_owner(asking, place), several, self._now):
                    allowed[place] = calls
        return asking.within(allowed)

    def settle(self, asking: Asking, answer: Answer) -> None:
        """Count what asking took. Where nobody says, it is what all calls that there may have been can take."""
        if not (isinstance(asking, AskingInWords) and _counts(asking)):
            return
        count = len(asking.asked)
        sound = len(answer.reasons) == count
        tokens, money = answer.columns.get(TOKENS), answer.columns.get(MONEY)
        for place in range(count):
            calls = int(asking.columns[MOST_CALLS][place])
            tokens_each, money_each = _bound(asking, place)
            took = calls * tokens_each, calls * money_each
            if sound and tokens is not None and money is not None:
                took = int(tokens[place]), round(float(np.nan_to_num(money[place])) * MILLION)
            elif sound and answer.reasons[place] in NOT_CALLED:
                took = 0, 0
            self._ledger.settle(_owner(asking, place), self._parts(asking, place, *took), self._now)

    def keep(self) -> None:
        """Change the tables of lanes by what was spent, and let go of what is of no use any more."""
        changes = dict[int, dict[bytes, bytes | None]]()
        for place, limit in self._limits.items():
            account = self._ledger.accounts[place]
            if account.spent:
                lane, key = place
                until = (account.period + 1) * limit.period
                raw = _encode(Kept(VERSION, until, account.spent))
                if raw != self._raw[place]:
                    changes.setdefault(lane, {})[key] = raw
        for lane, entries in changes.items():
            entries.update(self._swept(lane, entries))
            self._frame.change(lane, TABLE, entries)

    def _parts(self, asking: AskingInWords, place: int, tokens: int, money: int) -> list[Part]:
        """So much of each account that a row is for, by its place among those that are asked about. A period of another
        length is another account, or what was spent in a day would count in each of its hours."""
        row = int(asking.rows[asking.asked[place]])
        plan, lane = asking.llm.budget, self._lane_of[row]
        begin = asking.model.name.encode() + b"\0"
        parts = list[Part]()
        if plan.tokens is not None:
            name = name_of(asking.columns[BUDGET_KEY][place])
            key = begin + f"{TOKENS_OF}\0{plan.tokens.period}\0{name}".encode()
            parts.append(Part((lane, key), plan.tokens, tokens))
        if plan.money is not None:
            key = begin + f"{MONEY_OF}\0{plan.money.period}".encode()
            parts.append(Part((lane, key), self._share(plan.money, row), money))
        return parts

    def _share(self, money: Limit, row: int) -> Limit:
        """A lane's part of the money."""
        partition = int(self._frame.records.partitions[self._frame.rows[row]])
        most = Allowance(money.most, MICROSECOND * money.period).of_lane(partition % self._lanes, self._lanes)
        return Limit(most, money.period)

    def _load(self, parts: list[Part]) -> None:
        """Have the accounts as they were committed."""
        missing = dict[int, dict[bytes, Limit]]()
        for part in parts:
            assert isinstance(part.account, tuple)
            if part.account not in self._limits:
                lane, key = part.account
                missing.setdefault(lane, {})[key] = self._limits[part.account] = part.limit
        for lane, limits in missing.items():
            for (key, limit), raw in zip(limits.items(), self._raws(lane, list(limits)), strict=True):
                self._raw[lane, key] = raw
                kept = None if raw is None else _read(raw)
                account = Account(limit.number(self._now) if kept is None else kept.until // limit.period - 1)
                account.spent = 0 if kept is None else kept.spent
                self._ledger.accounts[lane, key] = account
                account.turn(limit, self._now)

    def _raws(self, lane: int, keys: list[bytes]) -> list[bytes | None]:
        return list(self._context.states[lane].get_many(TABLE, keys)) if self._context.states else [None] * len(keys)

    def _swept(self, lane: int, entries: dict[bytes, bytes | None]) -> dict[bytes, bytes | None]:
        """Entries to be deleted, and the time at which there is one again. The table is looked through only then."""
        [raw] = self._raws(lane, [CLOCK])
        due = None if raw is None else _read(raw).until
        soonest = min(_read(value).until for value in entries.values() if value is not None)
        if due is None or due > self._now:
            best = soonest if due is None else min(due, soonest)
            return {} if best == due else {CLOCK: _encode(Kept(VERSION, best, 0))}
        old = list[bytes]()
        for key, until in self._others(lane, entries):
            if until > self._now:
                soonest = min(soonest, until)
            elif len(old) < SWEPT:
                old.append(key)
            else:
                soonest = self._now
        return {**dict.fromkeys(old), CLOCK: _encode(Kept(VERSION, soonest, 0))}

    def _others(self, lane: int, entries: dict[bytes, bytes | None]) -> Iterator[tuple[bytes, int]]:
        for key, value in self._context.states[lane].items(TABLE):
            if key != CLOCK and key not in entries:
                yield key, _read(value).until


def _counts(asking: AskingInWords) -> bool:
    budget = asking.llm.budget
    return budget.in_lanes and budget.is_limited


def _owner(asking: AskingInWords, place: int) -> str:
    return f"{asking.model.name}:{asking.ids[place]}"


def _bound(asking: AskingInWords, place: int) -> tuple[int, int]:
    """Tokens and money that a call for a row can take."""
    own, answer = int(asking.columns[INPUT_BOUND][place]), int(asking.columns[MOST_TOKENS][place])
    return own + answer, asking.llm.budget.cost(own, answer)


def _read(raw: bytes) -> Kept:
    return read_kept(raw, Kept, VERSION, "what was spent")
