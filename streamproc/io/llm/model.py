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

from streamproc.core.llm.answer import UNWANTED
from streamproc.core.llm.confidence import sureness
from streamproc.core.llm.latency import Latencies, LatencyPolicy
from streamproc.core.llm.policy import CALLS, OUTPUT_TOKENS, LlmPlan
from streamproc.core.llm.request import MOST_TOKENS, SYSTEM, USER
from streamproc.core.names import MODEL_CONFIDENCE
from streamproc.core.processor import Answer, Score
from streamproc.io.breaker import Permit
from streamproc.io.connections import Connections
from streamproc.io.llm.endpoint import Endpoint, Failed, Refused
from streamproc.io.llm.stream import Completion
from streamproc.io.model import RowModel, named

HASH_BYTES = 16
ATTEMPTS: Final = 3
PAUSE: Final = 0.05
"""Seconds before a second attempt; twice as many before the third."""
FINISHED: Final[Mapping[str, str | None]] = {"stop": None, "length": "truncated", "content_filter": "refused"}
WHOLE_SHARE: Final = 0.8
"""Who had so large a part of the time that there was, and has not answered, would not have in all of it."""


@dataclass(frozen=True, slots=True)
class LlmPolicy:
    """``model`` is its name at the endpoints, ``parameters`` go into each request as they are. At most ``in_flight``
    rows are asked about at once."""

    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    latency: LatencyPolicy = field(default_factory=LatencyPolicy)
    in_flight: int = 32


@dataclass(slots=True)
class _Row:
    """What became of a row. ``whole`` are the seconds that there are for all of it."""

    whole: float
    text: str | None = None
    reason: str | None = None
    calls: int = 0
    output_tokens: int = 0
    model: str = ""
    confidence: float | None = None


class LlmModel:
    """Answers asks whose columns are those of ``streamproc.core.llm.request``, with the text that the model wrote."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        policy: LlmPolicy,
        plan: LlmPlan,
        identity: Sequence[Any],
        guard: RowModel | None = None,
    ) -> None:
        """``identity`` is what else decides the answers, as JSON: the prompt, the bounds, what they must satisfy.
        ``guard`` is asked before it, by whoever asks both."""
        self.guard = guard
        self._endpoints, self._policy, self._plan = list(endpoints), policy, plan
        said = orjson.dumps([policy.model, policy.parameters, identity], option=orjson.OPT_SORT_KEYS)
        self.version = hashlib.blake2b(said, digest_size=HASH_BYTES).hexdigest()
        self._latencies = Latencies(policy.latency)
        self._turn = 0
        self._slots: asyncio.Semaphore | None = None
        # Nobody asks for packed answers, and a bomb stays packed.
        self._connections = Connections(auto_decompress=False)
        self.close = weakref.finalize(self, self._connections.close)
        """Closes the connections and ends their thread; nobody has to call it."""

    def answer(self, ask: Score, deadline: float) -> Answer:
        """A text for each row, or the reason why there is none, by ``deadline`` in seconds of ``time.monotonic``,
        which is also the clock of event loops."""
        rows = self._connections.run(self._rows(ask, deadline))
        versions = [f"{self.version}@{row.model}" if row.model else self.version for row in rows]
        columns = {
            CALLS: np.array([row.calls for row in rows], np.float64),
            OUTPUT_TOKENS: np.array([row.output_tokens for row in rows], np.float64),
        }
        if self._plan.sureness:
            columns[MODEL_CONFIDENCE] = np.array([row.confidence for row in rows], np.float64)
        return Answer([row.text for row in rows], [row.reason for row in rows], self.version, "", columns, versions)

    async def _rows(self, ask: Score, deadline: float) -> list[_Row]:
        self._slots = self._slots or asyncio.Semaphore(self._policy.in_flight)
        whole = deadline - time.monotonic()
        made = [_Row(whole, reason="timeout") for _ in ask.ids]
        if whole <= 0:
            return made
        columns = ask.columns
        parts = zip(made, columns[SYSTEM], columns[USER], columns[MOST_TOKENS].tolist(), strict=True)
        await asyncio.gather(
            *(self._ask(row, self._body(system, user, most), deadline) for row, system, user, most in parts)
        )
        return made

    def _body(self, system: str, user: str, most_tokens: int) -> dict[str, Any]:
        return {
            "temperature": 0,
            **self._policy.parameters,
            "model": self._policy.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            "max_tokens": most_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"logprobs": True} if self._plan.sureness else {}),
        }

    async def _ask(self, row: _Row, body: Mapping[str, Any], until: float) -> None:
        """All attempts for a row. Its own reason stands there also where the time ends it."""
        assert self._slots is not None
        row.reason = "busy"
        try:
            async with asyncio.timeout_at(until), self._slots:
                row.reason = "timeout"
                completion = await self._attempts(row, body, until)
        except TimeoutError:
            return
        except (Failed, Refused) as error:
            row.reason = error.reason
            return
        row.output_tokens, row.model = completion.output_tokens, named(completion.model)
        row.reason = "refused" if completion.refused else FINISHED.get(completion.finish, UNWANTED)
        row.text = "".join(completion.text) if row.reason is None else None
        if self._plan.sureness and row.text is not None and completion.tokens:
            row.confidence = sureness(row.text, completion.tokens)

    async def _attempts(self, row: _Row, body: Mapping[str, Any], until: float) -> Completion:
        last = Failed("breaker_open", "no endpoint is asked at the moment")
        before: Endpoint | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE * attempt)
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
        self, row: _Row, body: Mapping[str, Any], chosen: tuple[Endpoint, Permit], until: float
    ) -> Completion:
        """One call, and a second one where the first is slow and the share allows it: whichever is well first."""
        self._latencies.began()
        calls = {asyncio.create_task(self._call(row, body, *chosen, until))}
        try:
            done, _ = await asyncio.wait(calls, timeout=self._latencies.hedge_after)
            if not done and self._may_hedge() and (other := self._choose(chosen[0])) is not None:
                calls.add(asyncio.create_task(self._beside(row, body, *other, until)))
            waiting, last = set(calls), BaseException()
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    error = call.exception()
                    if error is None:
                        return call.result()
                    last = error
            raise last
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _may_hedge(self) -> bool:
        assert self._slots is not None
        return not self._slots.locked() and self._latencies.may_hedge()

    async def _beside(
        self, row: _Row, body: Mapping[str, Any], endpoint: Endpoint, permit: Permit, until: float
    ) -> Completion:
        """A second call, in a slot of its own: it was free a moment ago."""
        assert self._slots is not None
        async with self._slots:
            return await self._call(row, body, endpoint, permit, until)

    async def _call(
        self, row: _Row, body: Mapping[str, Any], endpoint: Endpoint, permit: Permit, until: float
    ) -> Completion:
        """One call with its own time, told to the endpoint's breaker."""
        began = time.monotonic()
        # Who has run so long and is cancelled was too slow; who has not can be blamed for nothing.
        enough = min(self._latencies.hedge_after, WHOLE_SHARE * row.whole)
        row.calls += 1
        failed: bool | None = True
        try:
            async with asyncio.timeout(self._latencies.patience):
                completion = await endpoint.complete(self._connections.session(), body)
            failed = False
            self._latencies.took(time.monotonic() - began)
        except TimeoutError as error:
            raise Failed("timeout", "no answer in time") from error
        except Failed as error:
            endpoint.quiet_until = max(endpoint.quiet_until, time.monotonic() + error.after)
            raise
        except Refused:
            failed = False
            raise
        except asyncio.CancelledError:
            # Another call was quicker, or the time of all is over: this one took so long at least.
            failed = True if time.monotonic() - began >= enough else None
            if failed:
                self._latencies.took(time.monotonic() - began)
            raise
        finally:
            if failed is None:
                endpoint.state.withdrawn(permit)
            else:
                endpoint.state.ended(permit, failed, time.monotonic())
        return completion
