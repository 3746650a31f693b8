"""Budgets that all workers share, in a Redis: exact, because each reservation is one script there.

An account is a hash with what was ``spent`` in its ``period``, what is ``held``, and how much of that for whom; a
sorted set says until when. The scripts do what ``core.llm.budget.Ledger`` does, with the clock of the Redis.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from streamproc.core.llm.budget import MONEY, TOKENS_OF, BudgetPlan, Limit, name_of
from streamproc.io.llm.shared import NOW, Shared

MILLION: Final = 1_000_000
_TURN: Final = """
local function free(book, ends, owner)
  local held = tonumber(redis.call('HGET', book, 'of:' .. owner) or '0')
  if held > 0 then
    redis.call('HINCRBY', book, 'held', string.format('%.0f', 0 - held))
  end
  redis.call('HDEL', book, 'of:' .. owner)
  redis.call('ZREM', ends, owner)
end
local function begin(book, period)
  redis.call('HSETNX', book, 'period', string.format('%.0f', math.floor(now / period)))
end
local function turn(book, ends, period)
  local number, known = math.floor(now / period), redis.call('HGET', book, 'period')
  if known and number > tonumber(known) then
    redis.call('HSET', book, 'period', string.format('%.0f', number), 'spent', '0')
    for _, name in ipairs(redis.call('HKEYS', book)) do
      if string.sub(name, 1, 5) == 'told:' then
        redis.call('HDEL', book, name)
      end
    end
  end
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.0f', now))) do
    free(book, ends, owner)
  end
end
"""
"""Only what is held or spent makes a book, or lets it live longer: one where all is refused expires."""
RESERVE: Final = f"""{NOW}{_TURN}
local owner, ttl = ARGV[1], tonumber(ARGV[2])
local extra = {{}}
for n = 1, #KEYS / 2 do
  local book, ends = KEYS[2 * n - 1], KEYS[2 * n]
  local most, period, amount = tonumber(ARGV[3 * n]), tonumber(ARGV[3 * n + 1]), tonumber(ARGV[3 * n + 2])
  turn(book, ends, period)
  local known = redis.call('HMGET', book, 'spent', 'held', 'of:' .. owner)
  extra[n] = math.max(0, amount - tonumber(known[3] or '0'))
  if tonumber(known[1] or '0') + tonumber(known[2] or '0') + extra[n] > most then
    return {{0}}
  end
end
for n = 1, #KEYS / 2 do
  local book, ends, period = KEYS[2 * n - 1], KEYS[2 * n], tonumber(ARGV[3 * n + 1])
  begin(book, period)
  redis.call('HINCRBY', book, 'held', string.format('%.0f', extra[n]))
  redis.call('HINCRBY', book, 'of:' .. owner, string.format('%.0f', extra[n]))
  redis.call('ZADD', ends, string.format('%.0f', now + ttl), owner)
  local milliseconds = string.format('%.0f', math.ceil((period + ttl) / 1000))
  redis.call('PEXPIRE', book, milliseconds)
  redis.call('PEXPIRE', ends, milliseconds)
end
return {{1}}
"""
SETTLE: Final = f"""{NOW}{_TURN}
local teller, number, ttl = 'told:' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
for n = 1, #KEYS / 2 do
  local book, ends, period, amount = KEYS[2 * n - 1], KEYS[2 * n], tonumber(ARGV[2 * n + 2]), ARGV[2 * n + 3]
  turn(book, ends, period)
  for owner = #KEYS + 4, #ARGV do
    free(book, ends, ARGV[owner])
  end
  if tonumber(amount) > 0 and number > tonumber(redis.call('HGET', book, teller) or '0') then
    begin(book, period)
    redis.call('HSET', book, teller, ARGV[2])
    redis.call('HINCRBY', book, 'spent', amount)
    redis.call('PEXPIRE', book, string.format('%.0f', math.ceil((period + ttl) / 1000)))
  end
end
return {{1}}
"""
MOST_OWNERS: Final = 500
"""So many reservations end by one script."""
MOST_KEPT: Final = 10_000
"""So many owners are remembered while nothing can be told; what others reserved is given back in its time. What was
spent is summed up by key and never left out."""


@dataclass(frozen=True, slots=True)
class Debt:
    """What was spent for a decision, to be told to the Redis."""

    owner: str
    key: str | None
    tokens: int
    money: int


@dataclass(slots=True)
class _Debts:
    """What was spent of one key's accounts, and whose reservations end. With a ``number`` it may have been told
    already, and stays as it is: whatever is told under a number counts once."""

    key: str | None
    tokens: int = 0
    money: int = 0
    owners: list[str] = field(default_factory=list)
    number: int = 0


class Budgets:
    """Reserves and settles. What cannot be told now is told before anything else is reserved, so what is owed is of
    those rows alone that had reserved before."""

    def __init__(self, shared: Shared, plan: BudgetPlan, ttl: float) -> None:
        """``ttl`` in seconds is how long a reservation waits for its owner."""
        self._shared, self._plan, self._ttl = shared, plan, max(1, round(ttl * MILLION))
        self._debts = dict[str | None, _Debts]()
        self._telling: _Debts | None = None
        self._owners, self._number, self._name = 0, 0, secrets.token_hex(8)
        self._turn = asyncio.Lock()

    async def reserve(
        self, owner: str, key: str | None, tokens: int, money: int, sent: Callable[[], None] | None = None
    ) -> bool:
        """Whether there is as much for this decision in all. Not where nobody knows. ``sent`` is called before the
        Redis is asked: from then on something may be reserved."""
        if self.owes and not await self.tell():
            return False
        names, limits, amounts = self._accounts(key, tokens, money)
        wanted = [n for limit, amount in zip(limits, amounts, strict=True) for n in (limit.most, limit.period, amount)]
        said = await self._shared.run(RESERVE, names, owner, self._ttl, *wanted, sent=sent)
        return said == [1]

    @property
    def owes(self) -> bool:
        return self._telling is not None or bool(self._debts)

    def owe(self, debt: Debt) -> None:
        """What was spent for a decision, in all; its reservation ends with that."""
        knows = self._owners < MOST_KEPT
        if not (knows or debt.tokens or debt.money):
            return
        owed = self._debts.setdefault(debt.key, _Debts(debt.key))
        owed.tokens += debt.tokens
        owed.money += debt.money
        if knows:
            owed.owners.append(debt.owner)
            self._owners += 1

    async def tell(self, *, anyway: bool = False) -> bool:
        """Tell of what was spent; whether all of it is known now. What may have been told is told again, and counts
        once. ``anyway``: also a Redis that has just failed."""
        async with self._turn:
            while self.owes:
                self._telling = owed = self._telling or self._next()
                names, limits, amounts = self._accounts(owed.key, owed.tokens, owed.money)
                spent = [n for limit, amount in zip(limits, amounts, strict=True) for n in (limit.period, amount)]
                told: tuple[int | str, ...] = (self._name, owed.number, self._ttl, *spent, *owed.owners)
                if await self._shared.run(SETTLE, names, *told, anyway=anyway) is None:
                    return False
                self._telling = None
        return True

    def _next(self) -> _Debts:
        """What is told next, under a number: all that a key has spent, and so many of its owners at once."""
        key, owed = next(iter(self._debts.items()))
        del self._debts[key]
        if len(owed.owners) > MOST_OWNERS:
            self._debts[key] = _Debts(key, owners=owed.owners[MOST_OWNERS:])
            del owed.owners[MOST_OWNERS:]
        self._owners -= len(owed.owners)
        self._number += 1
        owed.number = self._number
        return owed

    async def close(self) -> None:
        """What is not told now is forgotten with this process."""
        await self.tell(anyway=True)

    def _accounts(self, key: str | None, tokens: int, money: int) -> tuple[list[str], list[Limit], list[int]]:
        """The names of accounts, two each, with their limits and amounts. A period of another length is another
        account: their numbers cannot be compared."""
        names, limits, amounts = list[str](), list[Limit](), list[int]()
        for limit, kind, name, amount in (
            (self._plan.tokens, TOKENS_OF, f":{name_of(key)}", tokens),
            (self._plan.money, MONEY, "", money),
        ):
            if limit is not None:
                book = f"{self._shared.prefix}:budget:{kind}:{limit.period}{name}"
                names += [book, f"{book}:ends"]
                limits.append(limit)
                amounts.append(amount)
        return names, limits, amounts
