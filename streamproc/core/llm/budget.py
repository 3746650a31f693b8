"""What may be spent in a period: reserved before a call, settled after it.

A reservation carries the decision's id, since an ask may be made again; one whose owner died is given back in time.
Amounts are integers: tokens, or millionths of a unit of currency.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

MILLION: Final = 1_000_000
DIGEST_BYTES: Final = 16
TOKENS_OF: Final = "tokens"
MONEY: Final = "money"
"""The kinds of accounts: tokens of one key, money of all of them."""


@dataclass(frozen=True, slots=True)
class Price:
    """Millionths of a unit of currency for a million tokens."""

    input: int
    output: int

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """What a call costs, in millionths, rounded up.

        >>> Price(2_500_000, 10_000_000).of(1_000, 300)
        5500
        """
        return -(-(input_tokens * self.input + output_tokens * self.output) // MILLION)


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so much in each period of so many µs. Periods begin at the epoch, in UTC."""

    most: int
    period: int

    def number(self, now: int) -> int:
        """Which period it is, at µs since the epoch."""
        return now // self.period


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """``tokens`` are those of each value of the column ``by``, ``money`` is that of all events.

    ``in_lanes``: what was spent is kept in the state of lanes, and else in a Redis.
    """

    by: str | None = None
    tokens: Limit | None = None
    money: Limit | None = None
    price: Price | None = None
    in_lanes: bool = True

    @property
    def is_limited(self) -> bool:
        return self.tokens is not None or self.money is not None

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """What a call costs; 0 where nobody knows its price."""
        return 0 if self.price is None else self.price.of(input_tokens, output_tokens)


@dataclass(frozen=True, slots=True)
class Part:
    """So much of one account, whose limit always has the same period: the account of another one has another name."""

    account: Hashable
    limit: Limit
    amount: int


@dataclass(slots=True)
class Account:
    """What was spent in a period, and what is held for whom: an amount, and until when; ``total`` is all of that."""

    period: int
    spent: int = 0
    held: dict[str, tuple[int, int]] = field(default_factory=dict)
    total: int = 0
    _ends: list[tuple[int, str]] = field(default_factory=list)

    def turn(self, limit: Limit, now: int) -> None:
        """A new period begins with nothing spent, and what owners that are gone held is free again. A clock that goes
        back begins no period."""
        if (number := limit.number(now)) > self.period:
            self.period, self.spent = number, 0
        while self._ends and self._ends[0][0] <= now:
            until, owner = heappop(self._ends)
            if self.held.get(owner, (0, 0))[1] == until:  # else it was held anew
                self.free(owner)

    def missing(self, owner: str, amount: int) -> int:
        """How much more has to be held for an owner to have so much."""
        return max(0, amount - self.held.get(owner, (0, 0))[0])

    def hold(self, owner: str, amount: int, until: int) -> None:
        more = self.missing(owner, amount)
        self.held[owner] = self.held.get(owner, (0, 0))[0] + more, until
        self.total += more
        heappush(self._ends, (until, owner))

    def free(self, owner: str) -> None:
        self.total -= self.held.pop(owner, (0, 0))[0]


class Ledger:
    """Accounts, and who has reserved what. Times are µs since the epoch, ``ttl`` is in µs.

    >>> ledger, part = Ledger(ttl=5), Part("a", Limit(10, 100), 6)
    >>> ledger.reserve("0-1", [part], 0), ledger.reserve("0-1", [part], 0), ledger.reserve("0-2", [part], 0)
    (True, True, False)
    >>> ledger.settle("0-1", [Part("a", Limit(10, 100), 4)], 1)
    >>> ledger.reserve("0-2", [part], 1)
    True
    """

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self.accounts = dict[Hashable, Account]()

    def reserve(self, owner: str, parts: Sequence[Part], now: int) -> bool:
        """Hold at least so much of each account, or nothing of any. What this owner holds already counts for it."""
        accounts = [self._account(part, now) for part in parts]
        for account, part in zip(accounts, parts, strict=True):
            if account.spent + account.total + account.missing(owner, part.amount) > part.limit.most:
                return False
        for account, part in zip(accounts, parts, strict=True):
            account.hold(owner, part.amount, now + self._ttl)
        return True

    def settle(self, owner: str, spent: Sequence[Part], now: int) -> None:
        """What was held is free, and what was really spent counts: also what is more than that, or was not held any
        more."""
        for part in spent:
            account = self._account(part, now)
            account.free(owner)
            account.spent += part.amount

    def _account(self, part: Part, now: int) -> Account:
        account = self.accounts.get(part.account)
        if account is None:
            account = self.accounts[part.account] = Account(part.limit.number(now))
        account.turn(part.limit, now)
        return account


def name_of(key: str | None) -> str:
    """What stands for a key outside: bounded, and no text of an event. Events without one share a name."""
    if key is None:
        return "-"
    return hashlib.blake2b(key.encode(errors="replace"), digest_size=DIGEST_BYTES).hexdigest()
