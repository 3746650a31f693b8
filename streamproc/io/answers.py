"""Answers asks: each within its time, with a bound on how many are under way. A failure is an answer with a reason."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamproc.core.processor import Answer, Ask, Lookup, Score
from streamproc.io.breaker import Breaker, BreakerPolicy, BreakerState
from streamproc.io.model import Closing, Forgetting, Model, Rejected, RowModel, Scores, Starting, Unavailable, Warming
from streamproc.io.store import Store

log = logging.getLogger(__name__)

IN_FLIGHT = 8
"""Calls of one model that are under way at once."""
OWN_SHARE = 0.95
"""Of the time, for the calls: what they have given by then is not lost where one of them hangs."""
MOST_ATTEMPTS = 32
"""Calls for one batch, while rows that the model cannot take are looked for."""
STARTING = "starting"
"""The health of a model whose process is not ready yet."""
NOT_ASKED = "not asked"
"""The health of one that no row could be given to."""
NO_SUCH_SOURCE = "no_such_source"
"""Why nothing is looked up where a table is not given."""
FAILURES = frozenset({"timeout", "model_error", "model_unavailable", "wrong_length"})


@dataclass(frozen=True, slots=True)
class Source:
    """A model with the time that it has for one batch, how many calls it may have, and when it is not asked."""

    model: Model | RowModel
    timeout: timedelta
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    in_flight: int = IN_FLIGHT


class LookupAnswerer(Protocol):
    """Answers look-ups: a table, a store, or a file."""

    async def __call__(self, ask: Lookup) -> Answer:
        """One entry per key, never an exception."""
        ...

    def now(self, ask: Lookup) -> Answer:
        """The same in this thread."""
        ...


class Answers:
    """Answers ``Score`` asks from models by name, and ``Lookup`` asks from tables and stores."""

    def __init__(self, sources: Mapping[str, Source], lookups: Mapping[str, LookupAnswerer] | None = None) -> None:
        self._sources, self._lookups = dict(sources), dict(lookups or {})
        self._breakers = {name: Breaker(source.breaker) for name, source in sources.items()}
        # A pool each: calls of a model that hang must not keep others from being asked.
        self._pools = {name: ThreadPoolExecutor(source.in_flight, "model") for name, source in sources.items()}
        self._under_way = dict.fromkeys(sources, 0)

    async def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer per ask, never an exception."""
        return list(await asyncio.gather(*map(self._answer, asks)))

    def look_up_in(self, lookups: Mapping[str, LookupAnswerer]) -> None:
        """From now on look-ups in these sources are answered by these."""
        self._lookups |= lookups

    def looks_up_in(self, source: str) -> bool:
        """Whether anything answers look-ups in a source."""
        return source in self._lookups

    async def disconnect(self) -> None:
        """Let go of what belongs to this event loop."""
        for one in self._lookups.values():
            if isinstance(one, Store):
                await one.disconnect()

    def close(self) -> None:
        """Let go of what models and stores hold open."""
        for one in self._lookups.values():
            if isinstance(one, Store):
                one.close()
        for source in self._sources.values():
            if isinstance(source.model, Closing):
                source.model.close()

    def warm_up(self) -> None:
        """Have what is slow the first time behind us."""
        for source in self._sources.values():
            if isinstance(source.model, Warming):
                source.model.warm_up()

    def forget(self, prompt: str) -> None:
        """Let models that keep answers let go of those to a version of a prompt, by its SHA-256."""
        for source in self._sources.values():
            if isinstance(source.model, Forgetting):
                source.model.forget(prompt)

    def states(self) -> dict[str, BreakerState]:
        """How the breaker of each model stands, and of each store as ``store:NAME``."""
        stores = {f"store:{one.name}": one.state for one in self._lookups.values() if isinstance(one, Store)}
        return {name: breaker.state for name, breaker in self._breakers.items()} | stores

    async def _answer(self, ask: Ask) -> Answer:
        if isinstance(ask, Lookup):
            there = self._lookups.get(ask.source)
            return await there(ask) if there is not None else Answer.nothing(len(ask.keys), NO_SUCH_SOURCE)
        source, breaker = self._sources[ask.model], self._breakers[ask.model]
        if self._under_way[ask.model] >= source.in_flight:
            return Answer.nothing(len(ask.ids), "busy", source.model.version)
        permit = breaker.allows(time.monotonic())
        if permit is None:
            return Answer.nothing(len(ask.ids), "breaker_open", source.model.version)
        try:
            answer = await self._within(source, ask)
        except BaseException:  # the lane is gone: how the call ends is nobody's to know, and another one has to try
            breaker.withdrawn(permit)
            raise
        if answer.health in (STARTING, NOT_ASKED):  # nobody waited for it, so there is nothing to be spared
            breaker.withdrawn(permit)
        else:
            breaker.ended(permit, _failed(answer), time.monotonic())
        return answer

    async def _within(self, source: Source, ask: Score) -> Answer:
        """What a call in a thread gave within the model's time."""
        try:
            work = asyncio.get_running_loop().run_in_executor(self._pools[ask.model], self.now, ask)
            self._under_way[ask.model] += 1
            work.add_done_callback(partial(self._done, ask.model))
            async with asyncio.timeout(source.timeout.total_seconds()):
                return await asyncio.shield(work)
        except TimeoutError:
            # A call in a thread cannot be stopped; when it ends at last its answer is thrown away.
            return Answer.nothing(len(ask.ids), "timeout", source.model.version)
        except Exception as error:  # no thread, no memory: the events have a fallback chain for it
            log.warning("no answer of the model %s: %s at %s", ask.model, type(error).__name__, _place(error))
            return Answer.nothing(len(ask.ids), "model_error", source.model.version)

    def _done(self, model: str, work: asyncio.Future[Answer]) -> None:
        self._under_way[model] -= 1
        if not work.cancelled():
            work.exception()

    def now(self, ask: Ask) -> Answer:
        """The answer, in this thread and within the model's time, as far as a thread can be held to it."""
        if isinstance(ask, Lookup):
            there = self._lookups.get(ask.source)
            return there.now(ask) if there is not None else Answer.nothing(len(ask.keys), NO_SUCH_SOURCE)
        source, rows = self._sources[ask.model], len(ask.ids)
        deadline = time.monotonic() + OWN_SHARE * source.timeout.total_seconds()
        if isinstance(source.model, RowModel):
            return _of_rows(source.model, ask, deadline)
        found = _Found(rows, source.model.version)
        parts = deque([(0, rows)])
        for attempt in range(MOST_ATTEMPTS):
            if not parts:
                break
            begin, end = parts.popleft()
            late = attempt > 0 and time.monotonic() > deadline
            got = "timeout" if late else _scores(source.model, ask, begin, end, deadline)
            if not isinstance(got, str):
                found.take(begin, end, got)
                if not got.asked and end - begin == rows:
                    found.health = NOT_ASKED
            elif got == "model_error" and end - begin > 1 and len(parts) + attempt + 2 < MOST_ATTEMPTS:
                middle = (begin + end) // 2  # one row that it cannot take must not take the others with it
                parts.extend([(begin, middle), (middle, end)])
            else:
                if got == STARTING:
                    found.health, got = STARTING, "model_unavailable"
                found.reasons[begin:end] = [got] * (end - begin)
        return found.answer()


class _Found:
    """What calls for parts of a batch have given, put together."""

    def __init__(self, rows: int, version: str) -> None:
        self.values = np.full(rows, np.nan)
        self.reasons = list[str | None]([None] * rows)
        self.health = ""
        self._columns = dict[str, NDArray[np.float64]]()
        self._version = version
        self._versions: list[str] | None = None
        self._named: str | None = None

    def take(self, begin: int, end: int, got: Scores) -> None:
        rows = len(self.values)
        self.values[begin:end] = got.values
        for name, column in got.columns.items():
            self._columns.setdefault(name, np.full(rows, np.nan))[begin:end] = column
        if self._named is None:
            self._named = got.version
        if self._named != got.version or self._versions is not None:
            self._versions = self._versions or [self._whole(self._named)] * rows
            self._versions[begin:end] = [self._whole(got.version)] * (end - begin)

    def answer(self) -> Answer:
        for row in np.flatnonzero(~np.isfinite(self.values)).tolist():
            self.reasons[row] = self.reasons[row] or "not_finite"
        version = self._whole(self._named or "")
        return Answer(self.values, self.reasons, version, self.health, self._columns, self._versions)  # type: ignore[arg-type]

    def _whole(self, named: str) -> str:
        return f"{self._version}@{named}" if named else self._version


def _of_rows(model: RowModel, ask: Score, deadline: float) -> Answer:
    """The answer of a model that is asked row by row, or why there is none at all."""
    if not ask.ids:
        return Answer.nothing(0, "", model.version, NOT_ASKED)
    try:
        return model.answer(ask, deadline)
    except Exception as error:
        return Answer.nothing(len(ask.ids), _why(ask, len(ask.ids), error), model.version)


def _scores(model: Model, ask: Score, begin: int, end: int, deadline: float) -> Scores | str:
    """The scores of some rows, or the reason why there are none."""
    whole = begin == 0 and end == len(ask.ids)
    columns = ask.columns if whole else {name: column[begin:end] for name, column in ask.columns.items()}
    try:
        scores = model.score(columns, end - begin, deadline)
        return scores if _fits(scores, end - begin) else "wrong_length"
    except (Exception, SystemExit) as error:  # a model may raise whatever it likes, and even leave
        return _why(ask, end - begin, error)


def _why(ask: Score, rows: int, error: BaseException) -> str:
    """The reason that what a model raised comes to; told in the log, without the text of errors that may quote an
    event."""
    match error:
        case TimeoutError():
            return "timeout"
        case Starting():
            return STARTING
        case Unavailable():
            log.warning("the model %s is not available: %s", ask.model, error)
            return "model_unavailable"
        case Rejected():
            log.warning("the model %s failed on a batch of %d: %s", ask.model, rows, error)
        case _:
            place = _place(error)
            log.warning("the model %s failed on a batch of %d: %s at %s", ask.model, rows, type(error).__name__, place)
    return "model_error"


def _fits(scores: Scores, rows: int) -> bool:
    """Whether there is one for each row. Raises Rejected for what would be taken for numbers and is none."""
    if scores.values.shape != (rows,):
        return False
    for column in (scores.values, *scores.columns.values()):
        if column.dtype != np.float64 or column.shape != (rows,):
            raise Rejected(f"it gave {column.dtype} of shape {column.shape}")
    return True


def _failed(answer: Answer) -> bool:
    """Whether the call came to nothing: a row that has no score may be the row's fault."""
    return bool(answer.reasons) and all(reason in FAILURES for reason in answer.reasons)


def _place(error: BaseException) -> str:
    """File and line of the innermost frame. The error's text may quote an event, so it is not told."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
