"""Vectors of texts: which are made first, which not at all, and how many wait."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from streamproc.core.llm.nearby import Vector
from streamproc.io.llm import vectors
from streamproc.io.llm.vectors import Vectors

SECONDS = 60.0


class Held:
    """Makes vectors one after another, the first of them only when ``go_on`` says so."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self.made = list[str]()

    def vector(self, text: str) -> Vector | None:
        self.made.append(text)
        self.began.set()
        self.go_on.wait(SECONDS)
        return np.full(1, len(text), np.float32)


def run(held: Held, then: Callable[[Vectors], Awaitable[None]], threads: int = 1) -> None:
    async def go() -> None:
        made = Vectors(held.vector, threads)
        async with asyncio.timeout(SECONDS):
            made.make("first", soon=False)
            await asyncio.to_thread(held.began.wait, SECONDS)
            await then(made)
            held.go_on.set()
            await made.idle()
        made.close()

    asyncio.run(go())


def test_what_somebody_waits_for_comes_first() -> None:
    async def then(made: Vectors) -> None:
        made.make("later", soon=False)
        made.make("later still", soon=False)
        made.make("soon", soon=True)
        made.make("later still", soon=True)

    held = Held()
    run(held, then)
    assert held.made == ["first", "soon", "later still", "later"]


def test_what_nobody_waits_for_any_more_comes_later() -> None:
    async def then(made: Vectors) -> None:
        gone, both = made.make("gone", soon=True), made.make("both", soon=True)
        made.make("both", soon=True)
        made.make("soon", soon=True)
        made.later(gone)
        made.later(both)  # the other one still waits

    held = Held()
    run(held, then)
    assert held.made == ["first", "both", "soon", "gone"]


def test_equal_texts_are_made_one_vector_of() -> None:
    held = Held()

    async def then(made: Vectors) -> None:
        again, one, two = made.make("first", soon=True), made.make("other", soon=True), made.make("other", soon=False)
        assert one is two
        made.leave(two)  # the first one still wants it
        held.go_on.set()
        assert await one.vector == 5
        assert await again.vector == 5

    run(held, then)
    assert held.made == ["first", "other"]


def test_what_nobody_wants_any_more_is_not_made() -> None:
    async def then(made: Vectors) -> None:
        making, begun = made.make("other", soon=True), made.make("first", soon=True)
        made.leave(making)
        made.leave(begun)
        assert await making.vector is None
        assert len(made) == 1
        fresh = made.make("other", soon=True)
        made.leave(fresh)
        made.leave(making)

    held = Held()
    run(held, then)
    assert held.made == ["first"]


def test_so_many_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MOST_WAITING", 3)

    async def then(made: Vectors) -> None:
        later = [made.make(f"later {number}", soon=False) for number in range(4)]
        assert await later[0].vector is None  # the oldest leaves
        soon = [made.make(f"soon {number}", soon=True) for number in range(4)]
        assert [one.vector.done() for one in later] == [True] * 4
        assert [one.vector.done() for one in soon] == [False] * 3 + [True]
        assert made.make("later", soon=False).vector.done()
        made.later(soon[3])  # it was never there
        assert not soon[3].reached
        assert len(made) == 4

    held = Held()
    run(held, then)
    assert held.made == ["first", "soon 0", "soon 1", "soon 2"]


def test_what_fails_has_no_vector_and_its_text_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    def fails(text: str) -> Vector | None:
        raise ValueError(text)

    async def go() -> list[Vector | None]:
        made = Vectors(fails, 2)
        makings = [made.make(text, soon=True) for text in ("secret one", "secret two")]
        async with asyncio.timeout(SECONDS):
            found = [await making.vector for making in makings]
        assert not any(making.reached for making in makings)
        made.close()
        return found

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(go()) == [None, None]
    assert [record.getMessage() for record in caplog.records] == ["the model for texts that are alike: ValueError"]


def test_several_threads_make_several_at_once() -> None:
    both = threading.Barrier(2, timeout=SECONDS)

    def vector(text: str) -> Vector:
        both.wait()
        return np.zeros(1, np.float32)

    async def go() -> None:
        made = Vectors(vector, 2)
        makings = [made.make(text, soon=True) for text in ("a", "b")]
        async with asyncio.timeout(SECONDS):
            assert [await making.vector for making in makings] == [np.zeros(1)] * 2
        assert all(making.reached for making in makings)
        made.close()

    asyncio.run(go())
