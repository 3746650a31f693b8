"""Answers that are given again, and questions that are asked once though several wait for the answer.

Of equal rows, in one batch or in several, one leads and is asked about; the others follow it. Where it comes to
nothing another one leads, a few times. All of this runs on the one event loop of the model's connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from streamproc.core.llm.cache import Said, key_of, partition_of, said, scope_of
from streamproc.core.llm.cache_policy import EXACT, CachePolicy
from streamproc.core.llm.policy import PROMPT_HASH, LlmPlan
from streamproc.core.llm.request import CANARY, INPUT, SYSTEM, TENANT
from streamproc.core.processor import Score
from streamproc.io.llm.kept import Kept, Store

MOST_LEADERS: Final = 3
"""Of equal rows so many are asked about, one after another, while nothing comes of it."""


class Row(Protocol):
    """What becomes of a row: the text that answers it or the reason why there is none, and which model wrote it.
    ``cache`` is what it was answered from, ``check`` what was found out about it."""

    text: str | None
    reason: str | None
    model: str
    cache: str | None
    check: str | None


Call: TypeAlias = Callable[[int], Awaitable[None]]
"""Asks the model about a row, by its number; what comes of it stands in the row then."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a row asks. Rows with the same ``key`` ask the same."""

    key: bytes
    partition: bytes
    prompt: str
    text: str
    canary: str
    system: str
    id: str


@dataclass(eq=False, slots=True)
class _Flight:
    """A question that is being asked, by the ``leader``-th row of those that ask it. It ends with the answer, or with
    the reason why there is none."""

    leader: int = 1
    end: asyncio.Future[Kept | str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class AnswerCache:
    """The answers of one model. ``parameters`` are what each request has beside its texts."""

    def __init__(
        self, plan: LlmPlan, policy: CachePolicy, model: str, parameters: dict[str, Any], store: Store
    ) -> None:
        self._plan, self._policy, self._store = plan, policy, store
        self._scope = scope_of(plan, model, parameters)
        self._flights: dict[bytes, _Flight] = {}

    async def answer(self, ask: Score, rows: Sequence[Row], call: Call, until: float) -> None:
        """Let every row have its answer, by ``until`` in seconds of the loop's clock."""
        questions = self._questions(ask)
        leading, following = dict[int, _Flight](), dict[int, _Flight]()
        for number, question in enumerate(questions):
            flight = self._flights.get(question.key)
            if flight is None:
                leading[number] = self._flights[question.key] = _Flight()
            else:
                following[number] = flight
        try:
            known = await self._store.known([questions[number].key for number in leading], until)
            leads = [
                self._lead(questions[number], rows[number], flight, kept, call, number)
                for (number, flight), kept in zip(leading.items(), known, strict=True)
            ]
            follows = [
                self._follow(questions[number], rows[number], flight, call, number, until)
                for number, flight in following.items()
            ]
            await asyncio.gather(*leads, *follows)
        finally:
            for number, flight in leading.items():  # where this was given up before they began
                self._ended(questions[number].key, flight, "busy")

    async def forget(self, prompt: str) -> int:
        """Let go of what was kept of a prompt, by its hash; how many answers that were."""
        return self._store.forget(prompt)

    async def close(self) -> None:
        """Let go of what belongs to the event loop."""
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

    async def _lead(
        self, question: Question, row: Row, flight: _Flight, kept: Kept | None, call: Call, number: int
    ) -> None:
        """Answer a row from what is kept or by asking, and tell those that follow."""
        found: Kept | str = "busy"
        try:
            if kept is not None and self._is_sound(question, kept):
                found = kept
                _give(row, kept)
                return
            found = await self._asked(question, row, call, number)
        finally:
            self._ended(question.key, flight, found)

    async def _follow(
        self, question: Question, row: Row, flight: _Flight, call: Call, number: int, until: float
    ) -> None:
        """Wait for the answer of the row that leads, and lead where there is none."""
        row.reason = "timeout"
        following: _Flight | None = flight
        try:
            async with asyncio.timeout_at(until):
                while following is not None:
                    flight = following
                    found = await asyncio.shield(flight.end)
                    if isinstance(found, Kept):
                        _give(row, found)
                        return
                    if flight.leader >= MOST_LEADERS:
                        row.reason = found
                        return
                    following = self._flights.get(question.key)  # that of another one that waited too
        except TimeoutError:
            return
        flight = self._flights[question.key] = _Flight(flight.leader + 1)
        await self._lead(question, row, flight, None, call, number)

    async def _asked(self, question: Question, row: Row, call: Call, number: int) -> Kept | str:
        """What the model says of a row; kept, where it may be."""
        await call(number)
        if row.text is None:
            return row.reason or "busy"
        found = said(self._plan, row.text, question.canary, question.system)
        if found is None:
            return row.reason or "bad_answer"
        kept = Kept(row.text, row.model, question.prompt)
        self._keep(question, kept, found)
        return kept

    def _keep(self, question: Question, kept: Kept, found: Said) -> None:
        if found.may_be_kept(self._policy):
            self._store.keep(question.key, kept)

    def _is_sound(self, question: Question, kept: Kept) -> bool:
        """Whether an answer that was kept elsewhere is one: whoever can write there could have written anything."""
        found = said(self._plan, kept.text, question.canary, question.system)
        return found is not None and found.may_be_kept(self._policy)

    def _ended(self, key: bytes, flight: _Flight, found: Kept | str) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.end.done():
            flight.end.set_result(found)


def _give(row: Row, kept: Kept) -> None:
    row.text, row.reason, row.model, row.cache = kept.text, None, kept.model, EXACT
