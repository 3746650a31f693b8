"""Budgets that all workers share, in a Redis: exact, because each reservation is one script there.

An account is a hash with what was ``spent`` in its ``period``, what is ``held``, and how much of that for whom; a
sorted set says until when. The scripts do what ``core.llm.budget.Ledger`` does, with the clock of the Redis.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
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
local owner, ttl = ARGV[1], tonumber(ARGV[2])
for n = 1, #KEYS / 2 do
  local book, ends, period, amount = KEYS[2 * n - 1], KEYS[2 * n], tonumber(ARGV[2 * n + 1]), ARGV[2 * n + 2]
  turn(book, ends, period)
  free(book, ends, owner)
  if tonumber(amount) > 0 then
    begin(book, period)
    redis.call('HINCRBY', book, 'spent', amount)
    redis.call('PEXPIRE', book, string.format('%.0f', math.ceil((period + ttl) / 1000)))
  end
end
return {{1}}
"""


@dataclass(frozen=True, slots=True)
class Debt:
    """What was spent for a decision, to be told to the Redis."""

    owner: str
    key: str | None
    tokens: int
    money: int


class Budgets:
    """Reserves and settles. What cannot be told now is told before anything else is reserved."""

    def __init__(self, shared: Shared, plan: BudgetPlan, ttl: float) -> None:
        """``ttl`` in seconds is how long a reservation waits for its owner."""
        self._shared, self._plan, self._ttl = shared, plan, max(1, round(ttl * MILLION))
        self._debts = deque[Debt]()
        self._telling = asyncio.Lock()

    async def reserve(self, owner: str, key: str | None, tokens: int, money: int) -> bool:
        """Whether there is as much for this decision in all. Not where nobody knows."""
        if self._debts and not await self.tell():
            return False
        names, limits, amounts = self._accounts(key, tokens, money)
        wanted = [n for limit, amount in zip(limits, amounts, strict=True) for n in (limit.most, limit.period, amount)]
        said = await self._shared.run(RESERVE, names, owner, self._ttl, *wanted)
        return said == [1]

    def owe(self, debt: Debt) -> None:
        """What was spent for a decision, in all; its reservation ends with that."""
        self._debts.append(debt)

    async def tell(self, *, anyway: bool = False) -> bool:
        """Tell of what was spent; whether all of it is known now. What may have been told is told again: it is never
        too little. ``anyway``: also a Redis that has just failed."""
        async with self._telling:
            while self._debts:
                debt = self._debts[0]
                names, limits, amounts = self._accounts(debt.key, debt.tokens, debt.money)
                spent = [n for limit, amount in zip(limits, amounts, strict=True) for n in (limit.period, amount)]
                if await self._shared.run(SETTLE, names, debt.owner, self._ttl, *spent, anyway=anyway) is None:
                    return False
                self._debts.popleft()
        return True

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
