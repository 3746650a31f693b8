"""A language model that is asked about each row of a batch at once, within one deadline.

A row has one call, and where that is one of the slow ones a second beside it; where it fails, another attempt, as long
as time is left. What loses is cancelled, and that closes its connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from streamproc.core.llm.answer import UNWANTED
from streamproc.core.llm.budget import MILLION
from streamproc.core.llm.cache_policy import CACHE, CHECK
from streamproc.core.llm.confidence import sureness
from streamproc.core.llm.latency import Latencies, LatencyPolicy
from streamproc.core.llm.policy import CALLS, MONEY, OUTPUT_TOKENS, TOKENS, LlmPlan
from streamproc.core.llm.request import BUDGET
from streamproc.core.names import MODEL_CONFIDENCE
from streamproc.core.processor import Answer, Score
from streamproc.io.breaker import Permit
from streamproc.io.connections import Connections
from streamproc.io.llm.budgets import Budgets, Debt
from streamproc.io.llm.cache import AnswerCache
from streamproc.io.llm.endpoint import Endpoint, Failed, Refused
from streamproc.io.llm.limits import Limits
from streamproc.io.llm.row import Row, rows_of
from streamproc.io.llm.shared import Shared
from streamproc.io.llm.stream import Completion
from streamproc.io.model import RowModel, named

HASH_BYTES = 16
RATE_LIMITED: Final = "rate_limited"
ATTEMPTS: Final = 3
PAUSE: Final = 0.05
"""Seconds before a second attempt; twice as many before the third."""
FINISHED: Final[Mapping[str, str | None]] = {"stop": None, "length": "truncated", "content_filter": "refused"}
WHOLE_SHARE: Final = 0.8
"""Who had so large a part of the time that there was, and has not answered, would not have in all of it."""


@dataclass(frozen=True, slots=True)
class LlmPolicy:
    """``model`` is its name at the endpoints, ``parameters`` go into each request as they are. At most ``in_flight``
    rows are asked about at once. What is reserved is kept for its owner for ``keep_reserved`` seconds."""

    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    latency: LatencyPolicy = field(default_factory=LatencyPolicy)
    in_flight: int = 32
    keep_reserved: float = 10.0


class _NotMade(Failed):
    """A second call that there was nothing for."""


class LlmModel:
    """Answers asks whose columns are those of ``streamproc.core.llm.request``, with the text that the model wrote."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        policy: LlmPolicy,
        plan: LlmPlan,
        identity: Sequence[Any],
        *,
        shared: Shared | None = None,
        cache: AnswerCache | None = None,
        guard: RowModel | None = None,
    ) -> None:
        """``identity`` is what else decides the answers, as JSON: the bounds, and what they must satisfy. ``guard`` is
        asked before it, by whoever asks both.

        The prompt is not there: which version of it an event is given is a matter of each row, and the core says it.
        """
        self.guard = guard
        self._endpoints, self._policy, self._plan = list(endpoints), policy, plan
        self._cache = cache
        said = orjson.dumps([policy.model, policy.parameters, identity], option=orjson.OPT_SORT_KEYS)
        self.version = hashlib.blake2b(said, digest_size=HASH_BYTES).hexdigest()
        self._latencies = Latencies(policy.latency)
        self._turn = 0
        self._slots: asyncio.Semaphore | None = None
        # Nobody asks for packed answers, and a bomb stays packed.
        self._connections = Connections(auto_decompress=False)
        self._limits = Limits(plan.limits, shared) if plan.limits.is_limited else None
        self._budgets: Budgets | None = None
        if shared is not None:
            if plan.budget.is_limited and not plan.budget.in_lanes:
                self._budgets = Budgets(shared, plan.budget, policy.keep_reserved)
                self._connections.also_close(self._budgets.close)
            self._connections.also_close(shared.close)
        if cache is not None:
            self._connections.also_close(cache.close)
        self.close = weakref.finalize(self, self._connections.close)
        """Closes the connections and ends their thread; nobody has to call it."""

    def answer(self, ask: Score, deadline: float) -> Answer:
        """A text for each row, or the reason why there is none, by ``deadline`` in seconds of ``time.monotonic``,
        which is also the clock of event loops."""
        rows = self._connections.run(self._rows(ask, deadline))
        versions = [f"{self.version}@{row.model}" if row.model else self.version for row in rows]
        knows_price = self._plan.budget.price is not None
        columns: dict[str, NDArray[Any]] = {
            CALLS: np.array([row.calls for row in rows], np.float64),
            OUTPUT_TOKENS: np.array([row.output_tokens for row in rows], np.float64),
            TOKENS: np.array([row.tokens for row in rows], np.float64),
            MONEY: np.array([row.money / MILLION if knows_price else np.nan for row in rows], np.float64),
        }
        if self._cache is not None:
            columns[CACHE] = np.array([row.cache for row in rows], object)
            columns[CHECK] = np.array([row.check for row in rows], object)
        if self._plan.sureness:
            columns[MODEL_CONFIDENCE] = np.array([row.confidence for row in rows], np.float64)
        return Answer([row.text for row in rows], [row.reason for row in rows], self.version, "", columns, versions)

    def warm_up(self) -> None:
        """Open the model for texts that are alike, where there is one."""
        if self._cache is not None:
            self._cache.warm_up()

    def forget(self, prompt: str) -> None:
        """Let go of the answers to a prompt, by its hash, that this process keeps. Nobody waits for that."""
        if self._cache is not None:
            self._connections.begin(self._cache.forget(prompt))

    async def _rows(self, ask: Score, deadline: float) -> list[Row]:
        self._slots = self._slots or asyncio.Semaphore(self._policy.in_flight)
        whole = deadline - time.monotonic()
        made = rows_of(ask, whole)
        if whole <= 0:
            return made

        async def call(number: int) -> None:
            await self._ask(made[number], self._body(made[number]), deadline)

        if self._cache is None:
            await asyncio.gather(*map(call, range(len(made))))
        else:
            await self._cache.answer(ask, made, call, deadline)
        await self._tell(deadline)
        return made

    async def _tell(self, until: float) -> None:
        """Tell of what was spent, if possible before the answer goes on."""
        if self._budgets is None:
            return
        self._telling = asyncio.create_task(self._budgets.tell())
        await asyncio.wait({self._telling}, timeout=max(0.0, until - time.monotonic()))

    def _body(self, row: Row) -> dict[str, Any]:
        return {
            "temperature": 0,
            **self._policy.parameters,
            "model": self._policy.model,
            "messages": [{"role": "system", "content": row.system}, {"role": "user", "content": row.user}],
            "max_tokens": row.most_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"logprobs": True} if self._plan.sureness else {}),
        }

    async def _ask(self, row: Row, body: Mapping[str, Any], until: float) -> None:
        """All attempts for a row. Its own reason stands there also where the time ends it."""
        assert self._slots is not None
        row.reason = RATE_LIMITED
        try:
            async with asyncio.timeout_at(until):
                if not await self._turn_of(row, until):
                    return
                row.reason = "busy"
                async with self._slots:
                    row.reason = BUDGET
                    if not await self._paid(row):
                        return
                    row.reason = "timeout"
                    completion = await self._attempts(row, body, until)
        except TimeoutError:
            return
        except (Failed, Refused) as error:
            row.reason = error.reason
            return
        finally:
            if self._budgets is not None and row.reserves:
                self._budgets.owe(Debt(row.id, row.budget_key, row.tokens, row.money))
        row.output_tokens, row.model = completion.output_tokens, named(completion.model)
        row.reason = "refused" if completion.refused else FINISHED.get(completion.finish, UNWANTED)
        row.text = "".join(completion.text) if row.reason is None else None
        if self._plan.sureness and row.text is not None and completion.tokens:
            row.confidence = sureness(row.text, completion.tokens)

    async def _turn_of(self, row: Row, until: float | None) -> bool:
        """Whether one more call for a row has its turn before a time, or now; it is waited for."""
        if self._limits is None:
            return True
        took = self._latencies.quantile(0.5) or 0.0  # a turn is of no use to whom has no time left for a call
        return await self._limits.turn(row.limit_key, 0.0 if until is None else until - time.monotonic() - took)

    async def _paid(self, row: Row) -> bool:
        """Whether there is something left to pay one more call for a row with. It is reserved."""
        if row.allowed >= row.most_calls:
            return False
        if self._budgets is not None:
            cost = self._plan.budget.cost(row.input_tokens, row.most_tokens)
            calls = row.allowed + 1
            wanted = row.id, row.budget_key, calls * row.bound, calls * cost
            if not await self._budgets.reserve(*wanted, sent=row.may_hold):
                return False
        row.allowed += 1
        return True

    async def _attempts(self, row: Row, body: Mapping[str, Any], until: float) -> Completion:
        last = Failed("breaker_open", "no endpoint is asked at the moment")
        before: Endpoint | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE * attempt)
                if not (await self._turn_of(row, until) and await self._paid(row)):
                    raise last
            chosen = self._choose(before)
            if chosen is None:
                raise last
            before = chosen[0]
            try:
                return await self._hedged(row, body, chosen, until)
            except Failed as error:
                last = error
        raise last

    def _choose(self, besides: Endpoint | None) -> tuple[Endpoint, Permit] | None:
        """The next endpoint that may be asked, if possible another one than that which was."""
        now, count = time.monotonic(), len(self._endpoints)
        self._turn += 1
        order = [self._endpoints[(self._turn + place) % count] for place in range(count)]
        for endpoint in sorted(order, key=lambda one: one is besides):
            if endpoint.quiet_until > now:
                continue
            permit = endpoint.state.allows(now)
            if permit is not None:
                return endpoint, permit
        return None

    async def _hedged(
        self, row: Row, body: Mapping[str, Any], chosen: tuple[Endpoint, Permit], until: float
    ) -> Completion:
        """One call, and a second one where the first is slow and the share allows it: whichever is well first."""
        self._latencies.began()
        calls = {asyncio.create_task(self._call(row, body, *chosen, until))}
        try:
            done, _ = await asyncio.wait(calls, timeout=self._latencies.hedge_after)
            if not done and self._may_hedge():
                calls.add(asyncio.create_task(self._beside(row, body, chosen[0], until)))
            waiting, last = set(calls), BaseException()
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    error = call.exception()
                    if error is None:
                        return call.result()
                    last = last if isinstance(error, _NotMade) else error
            raise last
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _may_hedge(self) -> bool:
        assert self._slots is not None
        return not self._slots.locked() and self._latencies.may_hedge()

    async def _beside(self, row: Row, body: Mapping[str, Any], besides: Endpoint, until: float) -> Completion:
        """A second call, in a slot of its own: it was free a moment ago. It has to wait for nothing."""
        assert self._slots is not None
        async with self._slots:
            other = self._choose(besides) if await self._turn_of(row, None) and await self._paid(row) else None
            if other is None:
                raise _NotMade("", "no second call")
            return await self._call(row, body, *other, until)

    async def _call(
        self, row: Row, body: Mapping[str, Any], endpoint: Endpoint, permit: Permit, until: float
    ) -> Completion:
        """One call with its own time, told to the endpoint's breaker."""
        began = time.monotonic()
        # Who has run so long and is cancelled was too slow; who has not can be blamed for nothing.
        enough = min(self._latencies.hedge_after, WHOLE_SHARE * row.whole)
        row.calls += 1
        failed: bool | None = True
        completion, free = None, False
        try:
            async with asyncio.timeout(self._latencies.patience):
                completion = await endpoint.complete(self._connections.session(), body)
            failed = False
            self._latencies.took(time.monotonic() - began)
        except TimeoutError as error:
            raise Failed("timeout", "no answer in time") from error
        except Failed as error:
            endpoint.quiet_until = max(endpoint.quiet_until, time.monotonic() + error.after)
            free = error.free
            if error.reason == RATE_LIMITED and self._limits is not None:
                self._limits.refused(error.after)
            raise
        except Refused:
            failed, free = False, True
            raise
        except asyncio.CancelledError:
            # Another call was quicker, or the time of all is over: this one took so long at least.
            failed = True if time.monotonic() - began >= enough else None
            if failed:
                self._latencies.took(time.monotonic() - began)
            raise
        finally:
            if not free:
                row.pay(self._plan.budget, completion)
            endpoint.state.ended(permit, failed, time.monotonic())
        return completion
