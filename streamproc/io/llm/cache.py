"""Answers that are given again, and questions that are asked once though several wait for the answer.

Of equal rows, in one batch or in several, one leads and is asked about; the others follow it. Where it comes to
nothing another one leads, a few times. All of this runs on the one event loop of the model's connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from streamproc.core.llm.answer import BAD_ANSWER, UNWANTED
from streamproc.core.llm.cache import Question, Said, key_of, partition_of, said, scope_of
from streamproc.core.llm.cache_policy import EXACT, SEMANTIC, CachePolicy
from streamproc.core.llm.policy import PROMPT_HASH, LlmPlan
from streamproc.core.llm.request import CANARY, INPUT, SYSTEM, TENANT
from streamproc.core.processor import Score
from streamproc.io.llm.alike import Alike
from streamproc.io.llm.kept import Kept, Store
from streamproc.io.llm.row import Row

MOST_LEADERS: Final = 3
"""Of equal rows so many are asked about, one after another, while nothing comes of it."""
Given: TypeAlias = "tuple[Kept, str]"
"""An answer, and how it was come by for those that asked the same."""
SAID_NO: Final = frozenset({"refused", UNWANTED})
"""Reasons for which there is no text, though the model was asked and did answer."""
Call: TypeAlias = Callable[[int], Awaitable[None]]
"""Asks the model about a row, by its number; what comes of it stands in the row then."""


OF_ITS_OWN: Final = frozenset({"budget", "rate_limited"})
"""Reasons of a row that was not asked about, which lie in its own keys and say nothing of the question."""


@dataclass(eq=False, slots=True)
class _Flight:
    """A question that is being asked by the row ``by``, which has the ``turn``; ``rows`` wait for it or lead. It ends
    with the answer, or with the reason why there is none after so many ``failed``; ``found`` is that then."""

    rows: int = 0
    by: Row | None = None
    failed: int = 0
    found: Given | str | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class AnswerCache:
    """The answers of one model. ``parameters`` are what each request has beside its texts."""

    def __init__(
        self,
        plan: LlmPlan,
        policy: CachePolicy,
        model: str,
        parameters: dict[str, Any],
        store: Store,
        alike: Alike | None = None,
    ) -> None:
        self._plan, self._policy, self._store, self._alike = plan, policy, store, alike
        self._scope = scope_of(plan, model, parameters)
        self._flights: dict[bytes, _Flight] = {}

    async def answer(self, ask: Score, rows: Sequence[Row], call: Call, until: float) -> None:
        """Let every row have its answer, by ``until`` in seconds of the loop's clock."""
        questions = self._questions(ask)
        leading, following = dict[int, _Flight](), dict[int, _Flight]()
        for number, question in enumerate(questions):
            flight = self._flights.get(question.key)
            if flight is None:
                leading[number] = flight = self._flights[question.key] = _Flight(by=rows[number])
                await flight.turn.acquire()  # nobody else knows of it
            else:
                following[number] = flight
            flight.rows += 1
        try:
            known = await self._known([questions[number] for number in leading], until)
            leads = [
                self._lead(questions[number], rows[number], flight, kept, call, number, until)
                for (number, flight), kept in zip(leading.items(), known, strict=True)
            ]
            follows = [
                self._follow(questions[number], rows[number], flight, call, number, until)
                for number, flight in following.items()
            ]
            await asyncio.gather(*leads, *follows)
        finally:
            for number, flight in leading.items():  # where this was given up before they began
                self._ended(questions[number].key, flight, rows[number], "busy")
            for number, flight in (leading | following).items():
                flight.rows -= 1
                if not flight.rows:
                    self._let_go(questions[number].key, flight)

    def warm_up(self) -> None:
        """Have the first vector be made, from any thread."""
        if self._alike is not None:
            self._alike.warm_up()

    async def forget(self, prompt: str) -> int:
        """Let go of what was kept of a prompt, by its hash; how many answers to equal texts that were."""
        if self._alike is not None:
            self._alike.forget(prompt)
        return self._store.forget(prompt)

    async def close(self) -> None:
        """Let go of what belongs to the event loop."""
        if self._alike is not None:
            self._alike.close()
        await self._store.close()

    def _questions(self, ask: Score) -> list[Question]:
        columns = ask.columns
        made = list[Question]()
        partitions = dict[tuple[str | None, str], bytes]()
        parts = zip(
            columns[INPUT],
            columns[TENANT],
            columns[PROMPT_HASH],
            columns[CANARY],
            columns[SYSTEM],
            ask.ids,
            strict=True,
        )
        for text, tenant, prompt, canary, system, id_ in parts:
            partition = partitions.get((tenant, prompt))
            if partition is None:
                partition = partitions[tenant, prompt] = partition_of(self._scope, tenant, prompt)
            made.append(Question(key_of(partition, text), partition, prompt, text, canary, system, id_))
        return made

    async def _known(self, questions: Sequence[Question], until: float) -> list[Kept | None]:
        """What was kept. Where others can write, they could have written anything: it is checked as if it were new."""
        known = await self._store.known([question.key for question in questions], until)
        if self._store.is_own:
            return known
        places = [place for place, kept in enumerate(known) if kept is not None]
        texts = [kept.text for kept in known if kept is not None]
        canaries = [questions[place].canary for place in places]
        systems = [questions[place].system for place in places]
        sure = [kept.confidence for kept in known if kept is not None]
        checked = said(self._plan, texts, canaries, systems, sure) if texts else []
        for place, found in zip(places, checked, strict=True):
            if found is None or not found.may_be_kept(self._policy):
                known[place] = None
        return known

    async def _lead(
        self, question: Question, row: Row, flight: _Flight, kept: Kept | None, call: Call, number: int, until: float
    ) -> None:
        """Answer a row from what is kept or by asking, and tell those that follow."""
        found: Given | str = "busy"
        try:
            if kept is not None:
                found = kept, EXACT
                _give(row, *found)
            else:
                found = await self._asked(question, row, call, number, until)
        finally:
            self._ended(question.key, flight, row, found)

    async def _follow(
        self, question: Question, row: Row, flight: _Flight, call: Call, number: int, until: float
    ) -> None:
        """Wait for the answer of the row that leads, and lead where there is none."""
        row.reason = "timeout"
        try:
            async with asyncio.timeout_at(until):
                await flight.turn.acquire()  # one after another: each that comes to nothing wakes one other
        except TimeoutError:
            return
        if flight.found is None:
            flight.by = row
            await self._lead(question, row, flight, None, call, number, until)
            return
        flight.turn.release()
        if isinstance(flight.found, str):
            row.reason = flight.found
        else:
            _give(row, *flight.found)

    async def _asked(self, question: Question, row: Row, call: Call, number: int, until: float) -> Given | str:
        """What was kept for a like text, or what the model says; that is kept, where it may be."""
        if self._alike is None:
            await call(number)
            return self._kept(question, row, self._said(question, row))
        look = self._alike.look(question, until)
        try:
            like = await self._alike.served(look)
            if like is not None:
                _give(row, like, SEMANTIC)
                return like, SEMANTIC
            await call(number)
            fresh = self._said(question, row)
            if row.text is not None or row.reason in SAID_NO:
                row.check = await self._alike.told(look, fresh)
            found = self._kept(question, row, fresh)
            if not isinstance(found, str) and fresh is not None and fresh.may_be_kept(self._policy):
                self._alike.add(look, found[0], fresh)
            return found
        finally:
            self._alike.end(look)

    def _said(self, question: Question, row: Row) -> Said | None:
        """What the model said of a row, where that can be used."""
        if row.text is None:
            return None
        [fresh] = said(self._plan, [row.text], [question.canary], [question.system], [row.confidence])
        return fresh

    def _kept(self, question: Question, row: Row, fresh: Said | None) -> Given | str:
        """The answer, or why there is none. It is kept, where it may be."""
        if fresh is None or row.text is None:
            return row.reason or BAD_ANSWER
        kept = Kept(row.text, row.model, question.prompt, row.confidence)
        if fresh.may_be_kept(self._policy):
            self._store.keep(question.key, kept)
        return kept, EXACT

    def _ended(self, key: bytes, flight: _Flight, row: Row, found: Given | str) -> None:
        """What came of a row that leads. Where that is nothing, the next one leads."""
        if flight.by is not row:
            return
        flight.by = None
        if not isinstance(found, str):
            flight.found = found
        elif row.calls or found not in OF_ITS_OWN:
            flight.failed += 1
            flight.found = found if flight.failed >= MOST_LEADERS else None
        if flight.found is not None:
            self._let_go(key, flight)
        flight.turn.release()

    def _let_go(self, key: bytes, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _give(row: Row, kept: Kept, how: str) -> None:
    row.text, row.reason, row.model, row.cache = kept.text, None, kept.model, how
    row.confidence = kept.confidence
