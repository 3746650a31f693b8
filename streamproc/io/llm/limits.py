"""Rates of requests: in this process, or shared by all workers in a Redis."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from streamproc.core.llm.budget import name_of
from streamproc.core.llm.rates import MILLION, Bucket, Buckets, LimitsPlan, Pace, Turn
from streamproc.io.llm.shared import NOW, Shared

TAKE: Final = f"""{NOW}
local most = tonumber(ARGV[1])
local interval, tolerance = {{tonumber(ARGV[2]), tonumber(ARGV[4])}}, {{tonumber(ARGV[3]), tonumber(ARGV[5])}}
local full, wait = {{0, 0}}, {{0, 0}}
for n = 1, 2 do
  if interval[n] > 0 then
    full[n] = tonumber(redis.call('GET', KEYS[n]) or '0')
    wait[n] = math.max(0, full[n] - tolerance[n] - now)
  end
end
local longest = math.max(wait[1], wait[2])
if longest > most then
  return {{0, longest, now}}
end
local function taken(n)
  local at = math.max(full[n], now + longest) + interval[n]
  redis.call('SET', KEYS[n], string.format('%.0f', at), 'PX', string.format('%.0f', math.ceil((at - now) / 1000)))
end
if interval[2] > 0 then
  taken(2)
end
if interval[1] == 0 then
  return {{1, longest, now}}
end
if wait[2] > wait[1] then
  return {{2, longest, now}}
end
taken(1)
return {{1, longest, now}}
"""
"""What ``core.llm.rates.Buckets.take`` does, with the clock of the Redis: KEYS are all and the key; an interval of 0 is
no limit."""


class Limits:
    """Lets requests wait for their turn. A rate that a server bears less of is lowered in this process."""

    def __init__(self, plan: LimitsPlan, shared: Shared | None) -> None:
        self._plan, self._shared = plan, shared
        self._buckets, self._pace = Buckets(), Pace()

    def refused(self, after: float) -> None:
        """A server has had too many requests, and wants to be left alone for so many seconds."""
        self._pace.limited(_now(), round(after * MILLION))

    async def turn(self, key: str | None, seconds: float) -> bool:
        """Wait for a turn that comes within so many seconds; whether there is one. Where there is none nothing is
        taken, and that is known at once."""
        until = time.monotonic() + seconds
        turn = await self._take(key, seconds, own=True)
        if turn.granted == "again":
            await asyncio.sleep(turn.wait / MILLION)
            turn = await self._take(key, until - time.monotonic(), own=False)
        if turn.granted == "no":
            return False
        if turn.wait:
            await asyncio.sleep(turn.wait / MILLION)
        return True

    async def _take(self, key: str | None, seconds: float, *, own: bool) -> Turn:
        all_, each = self._plan.all, self._plan.each if own else None
        now, most = _now(), max(0, round(seconds * MILLION))
        buckets = tuple(None if rate is None else self._pace.bucket(rate, now) for rate in (all_, each))
        name = name_of(key)
        if self._shared is None:
            return self._buckets.take(buckets[0], name, buckets[1], now, most)
        names = [f"{self._shared.prefix}:rate", f"{self._shared.prefix}:rate:{name}"]
        wanted = [number for bucket in buckets for number in _numbers(bucket)]
        said = await self._shared.run(TAKE, names, most, *wanted)
        if said is None:
            return Turn("no", 0)
        return Turn(("no", "yes", "again")[said[0]], said[1])


def _numbers(bucket: Bucket | None) -> tuple[int, int]:
    return (0, 0) if bucket is None else (bucket.interval, bucket.tolerance)


def _now() -> int:
    return time.monotonic_ns() // 1_000
