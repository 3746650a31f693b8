"""The circuit breaker, and rows that a model cannot take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from datetime import timedelta
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.core.processor import Score
from streamproc.io.answers import MOST_ATTEMPTS, Answers, Source
from streamproc.io.breaker import Breaker, BreakerPolicy
from streamproc.io.model import Scores, Starting, Unavailable

POLICY = BreakerPolicy(failures=0.5, calls=4, wait=10.0)


def opened() -> Breaker:
    breaker = Breaker(POLICY)
    for failed in (False, True, False, True):
        assert breaker.allows(0.0)
        breaker.ended(failed, 0.0)
    return breaker


def test_it_opens_at_its_share_of_the_last_calls_and_not_before() -> None:
    breaker = Breaker(POLICY)
    for failed in (True, True, True):  # fewer than it looks at
        breaker.ended(failed, 0.0)
    assert breaker.state == "closed"
    breaker.ended(False, 0.0)
    assert breaker.state == "open"
    assert not breaker.allows(9.9)


def test_one_call_tries_and_its_end_decides() -> None:
    breaker = opened()
    assert breaker.allows(10.0)
    assert breaker.state == "half-open"
    assert not breaker.allows(10.0)
    breaker.ended(True, 11.0)
    assert (breaker.state, breaker.allows(20.9)) == ("open", False)
    assert breaker.allows(21.0)
    breaker.ended(False, 21.5)
    assert breaker.state == "closed"
    for _ in range(3):  # what was before is forgotten
        breaker.ended(True, 22.0)
    assert breaker.state == "closed"


def test_calls_from_before_it_opened_change_nothing() -> None:
    breaker = opened()
    breaker.ended(False, 1.0)
    assert breaker.state == "open"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60))
def test_open_means_no_call_and_never_for_ever(steps: list[tuple[bool, int]]) -> None:
    breaker, now, opened_at = Breaker(POLICY), 0.0, -POLICY.wait
    for failed, passed in steps:
        now += passed
        before = breaker.state
        assert breaker.allows(now) == (before == "closed" or now - opened_at >= POLICY.wait)
        if breaker.state != "open":
            breaker.ended(failed, now)
            opened_at = now if breaker.state == "open" else opened_at
            if before == "open":
                assert breaker.state == ("open" if failed else "closed")
    assert breaker.allows(now + POLICY.wait)


class Picky:
    """Raises for a batch with a row that it cannot take."""

    version = "v"

    def __init__(self, bad: set[int], error: type[Exception] = ValueError) -> None:
        self.bad, self.error, self.calls = bad, error, 0

    def score(self, columns: Mapping[str, Any], rows: int, deadline: float = inf) -> Scores:
        self.calls += 1
        if self.bad & set(columns["x"].tolist()):
            raise self.error("with an event's values")
        return Scores(columns["x"] / 1000)


def ask(rows: int) -> Score:
    return Score("m", {"x": np.arange(rows)}, [str(row) for row in range(rows)])


@pytest.mark.parametrize("rows", [1, 2, 777, 8_000])
def test_a_row_that_the_model_cannot_take_does_not_take_the_others_with_it(rows: int) -> None:
    model = Picky({rows // 3})
    answer = Answers({"m": Source(model, timedelta(seconds=5))}).now(ask(rows))
    assert [row for row, reason in enumerate(answer.reasons) if reason is not None] == [rows // 3]
    assert answer.reasons[rows // 3] == "model_error"
    scored = np.delete(np.arange(rows), rows // 3)
    np.testing.assert_array_equal(np.array(answer.values)[scored], scored / 1000)
    assert model.calls <= MOST_ATTEMPTS


def test_the_search_for_bad_rows_is_bounded() -> None:
    model = Picky(set(range(0, 4_000, 7)))
    answer = Answers({"m": Source(model, timedelta(seconds=5))}).now(ask(4_000))
    assert model.calls <= MOST_ATTEMPTS
    assert {reason for reason in answer.reasons if reason} == {"model_error"}
    assert all(answer.reasons[row] for row in range(0, 4_000, 7))


@pytest.mark.parametrize(("error", "reason"), [(Unavailable, "model_unavailable"), (TimeoutError, "timeout")])
def test_what_halves_would_not_mend_is_not_tried_in_halves(error: type[Exception], reason: str) -> None:
    model = Picky({3}, error)
    answer = Answers({"m": Source(model, timedelta(seconds=5))}).now(ask(100))
    assert set(answer.reasons) == {reason}
    assert model.calls == 1


def test_an_open_breaker_answers_at_once_and_closes_when_the_model_is_well_again() -> None:
    model, policy = Picky({0}, Unavailable), BreakerPolicy(calls=3, wait=0.0)
    answers = Answers({"m": Source(model, timedelta(seconds=5), BreakerPolicy(calls=3, wait=60.0))})

    async def reasons(source: Answers, times: int) -> list[str | None]:
        return [(await source([ask(2)]))[0].reasons[0] for _ in range(times)]

    assert asyncio.run(reasons(answers, 5)) == ["model_unavailable"] * 3 + ["breaker_open"] * 2
    assert answers.states() == {"m": "open"}
    assert model.calls == 3
    mending = Answers({"m": Source(model, timedelta(seconds=5), policy)})
    assert asyncio.run(reasons(mending, 4)) == ["model_unavailable"] * 4  # it tries each time
    model.bad = set()
    assert asyncio.run(reasons(mending, 2)) == [None, None]
    assert mending.states() == {"m": "closed"}


def test_a_hanging_model_opens_it_too() -> None:
    release = threading.Event()

    class Hanging:
        version = "v"

        def score(self, columns: Mapping[str, Any], rows: int, deadline: float = inf) -> Scores:
            release.wait(30)
            return Scores(np.zeros(rows))

    answers = Answers({"m": Source(Hanging(), timedelta(milliseconds=20), BreakerPolicy(calls=2, wait=60.0))})

    async def reasons() -> list[str | None]:
        found = [(await answers([ask(1)]))[0].reasons[0] for _ in range(3)]
        release.set()
        return found

    assert asyncio.run(reasons()) == ["timeout", "timeout", "breaker_open"]


def test_a_model_that_is_starting_does_not_open_it() -> None:
    model = Picky({0}, Starting)
    answers = Answers({"m": Source(model, timedelta(seconds=5), BreakerPolicy(calls=2, wait=0.0))})

    async def reasons(times: int) -> list[str | None]:
        return [(await answers([ask(2)]))[0].reasons[0] for _ in range(times)]

    assert asyncio.run(reasons(5)) == ["model_unavailable"] * 5
    assert answers.states() == {"m": "closed"}
    model.error = Unavailable
    assert asyncio.run(reasons(2)) == ["model_unavailable"] * 2
    model.error = Starting
    assert asyncio.run(reasons(3)) == ["model_unavailable"] * 3  # it is asked again and again, until it can be asked
    assert answers.states() == {"m": "open"}
    model.bad = set()
    assert asyncio.run(reasons(1)) == [None]
    assert answers.states() == {"m": "closed"}
