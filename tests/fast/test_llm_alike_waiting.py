"""Like texts while vectors are late, not reached, or wanted by nobody any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace

import orjson
import pytest

from streamproc.core.llm.cache import Question, Said
from streamproc.core.llm.cache_policy import RIGHT, SemanticPolicy
from streamproc.core.llm.nearby import Vector
from streamproc.io.llm import vectors
from streamproc.io.llm.alike import Alike, Look
from streamproc.io.llm.kept import Kept
from streamproc.io.llm.vectors import Vectors
from tests.fast.test_llm_alike import QUICK, Bench, variants


class Gate:
    """Vectors of one kind, made one after another once ``go_on`` says so."""

    def __init__(self) -> None:
        self.began, self.go_on, self.made = threading.Event(), threading.Event(), list[str]()

    def vector(self, text: str) -> Vector | None:
        self.began.set()
        self.go_on.wait(60.0)
        self.made.append(text)
        return Bench.vector("x")


class Looks:
    """Looks at one event loop, by hand: ``vectors`` has one thread, that the gate holds."""

    def __init__(self, vector: Callable[[str], Vector | None], semantic: SemanticPolicy = QUICK) -> None:
        self.vectors = Vectors(vector, 1)
        self.alike = Alike(replace(semantic, wait=60.0), 3_600.0, self.vectors)
        self._asked = 0

    def look(self, text: str, seconds: float = 240.0) -> Look:
        self._asked += 1
        question = Question(
            b"%d" % self._asked, b"p", "prompt", orjson.dumps({"body": text}).decode(), "c", "s", f"0-{self._asked}"
        )
        return self.alike.look(question, asyncio.get_running_loop().time() + seconds)

    def add(self, look: Look) -> None:
        self.alike.add(look, Kept("{}", "m", "prompt", None), Said(0.5, 0.9))

    def hold(self, text: str) -> None:
        look = self.look(text)
        self.add(look)
        self.alike.end(look)

    def go(self, then: Callable[[Looks], Awaitable[None]]) -> None:
        async def run() -> None:
            async with asyncio.timeout(60.0):
                await then(self)
            self.alike.close()

        asyncio.run(run())


async def told(looks: Looks, text: str) -> str | None:
    look = looks.look(text)
    try:
        return await looks.alike.told(look, Said(0.5, 0.9))
    finally:
        looks.alike.end(look)


def test_a_held_text_whose_vector_was_not_reached_gets_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MOST_WAITING", 4)
    gate = Gate()

    async def then(looks: Looks) -> None:
        looks.hold("parcel")
        for number in range(6):
            looks.vectors.make(f"busy {number}", soon=True)
        looks.alike.end(looks.look("parcel please"))
        gate.go_on.set()
        await looks.alike.idle()
        assert await told(looks, "parcel please") == RIGHT
        assert "parcel" in gate.made

    Looks(gate.vector).go(then)


def test_an_answered_text_whose_vector_was_not_reached_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MOST_WAITING", 4)
    gate = Gate()

    async def then(looks: Looks) -> None:
        for number in range(6):
            looks.vectors.make(f"busy {number}", soon=True)
        looks.hold("parcel")
        looks.hold("parcel please")
        gate.go_on.set()
        await looks.alike.idle()
        looks.alike.forget("other")
        assert await told(looks, "parcel thanks") == RIGHT
        assert {"parcel", "parcel please"} <= {*gate.made}

    Looks(gate.vector).go(then)


def test_a_thread_that_failed_does_not_make_a_held_text_blind() -> None:
    fails = {"parcel"}

    def vector(text: str) -> Vector | None:
        if text in fails:
            fails.discard(text)
            raise MemoryError
        return Bench.vector(text)

    async def then(looks: Looks) -> None:
        looks.hold("parcel")
        assert await told(looks, "parcel please") is None
        await looks.alike.idle()
        assert await told(looks, "parcel please") == RIGHT

    Looks(vector).go(then)


def test_a_held_text_that_has_no_vector_is_asked_about_once() -> None:
    asked = list[str]()

    def vector(text: str) -> Vector | None:
        asked.append(text)
        return None if text == "parcel" else Bench.vector(text)

    async def then(looks: Looks) -> None:
        looks.hold("parcel")
        for _ in range(3):
            await told(looks, "parcel please")
            await looks.alike.idle()
        assert asked.count("parcel") == 1

    Looks(vector).go(then)


def test_texts_that_fail_do_not_keep_others_from_having_a_vector() -> None:
    def vector(text: str) -> Vector | None:
        if "the" in text:
            raise MemoryError
        return Bench.vector(text)

    async def then(looks: Looks) -> None:
        thing = Kept("{}", "m", "prompt", None), Said(0.5, 0.9)
        for text in [*variants("parcel the", 12), "parcel"]:
            look = looks.look(text)
            looks.alike._texts.add(look.partition, text.encode(), "prompt", text, look.wording, thing, look.until)
            looks.alike.end(look)
        for _ in range(3):
            found = await told(looks, "parcel please")
            await looks.alike.idle()
        assert found == RIGHT

    Looks(vector).go(then)


def test_what_no_row_waits_for_comes_after_what_one_waits_for() -> None:
    gate = Gate()

    async def then(looks: Looks) -> None:
        looks.hold("parcel")
        looks.vectors.make("held", soon=True)
        await asyncio.to_thread(gate.began.wait, 60.0)
        for text in variants("parcel the", 5):  # answered by the model, and gone
            looks.hold(text)
        looks.alike.end(looks.look("parcel that nobody keeps"))
        waits = looks.look("parcel that somebody waits for")
        gate.go_on.set()
        await looks.alike.told(waits, Said(0.5, 0.9))
        assert gate.made[:3] == ["held", "parcel", "parcel that somebody waits for"]
        assert "parcel that nobody keeps" not in gate.made
        looks.alike.end(waits)
        await looks.alike.idle()

    Looks(gate.vector).go(then)


def test_what_a_row_waited_for_in_vain_comes_after_what_another_waits_for() -> None:
    gate = Gate()

    async def then(looks: Looks) -> None:
        for _ in range(30):
            looks.alike.trust("prompt").told(True)
        looks.hold("parcel")
        looks.vectors.make("held", soon=True)
        await asyncio.to_thread(gate.began.wait, 60.0)
        late = looks.look("parcel please", seconds=0.01)
        assert late.serves and await looks.alike.served(late) is None
        waits = looks.look("parcel thanks")  # the text that is held is waited for again
        gate.go_on.set()
        assert await looks.alike.served(waits) is not None
        assert gate.made[:3] == ["held", "parcel", "parcel thanks"]
        for look in (late, waits):
            looks.alike.end(look)

    Looks(gate.vector, replace(QUICK, fewest=30, limit=0.2, verify=1e-9)).go(then)


def test_a_prompt_that_is_forgotten_gets_nothing_by_vectors_on_their_way() -> None:
    gate = Gate()

    async def then(looks: Looks) -> None:
        looks.hold("parcel")
        for text in variants("parcel the", 3):
            looks.hold(text)
        asked = looks.look("parcel that is asked")
        looks.alike.forget("prompt")
        gate.go_on.set()
        looks.add(asked)
        looks.alike.end(asked)
        await looks.alike.idle()
        fresh = looks.look("parcel thanks")
        assert fresh.making is None  # there is nothing to compare it with
        looks.alike.end(fresh)

    Looks(gate.vector).go(then)


@pytest.mark.parametrize("how", ["add", "end"])
def test_once_a_row_is_answered_it_keeps_nobody_waiting(how: str) -> None:
    gate = Gate()

    async def then(looks: Looks) -> None:
        looks.hold("parcel")
        looks.vectors.make("held", soon=True)
        await asyncio.to_thread(gate.began.wait, 60.0)
        look = looks.look("parcel please")
        if how == "add":
            looks.add(look)
        else:
            looks.alike.end(look)
        looks.vectors.make("soon", soon=True)
        gate.go_on.set()
        await looks.alike.idle()
        assert gate.made[:3] == ["held", "soon", "parcel"]
        looks.alike.end(look)

    Looks(gate.vector).go(then)
