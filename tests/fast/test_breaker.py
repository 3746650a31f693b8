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
from streamproc.io.breaker import Breaker, BreakerPolicy, Permit
from streamproc.io.model import Scores, Starting, Unavailable

POLICY = BreakerPolicy(failures=0.5, calls=4, wait=10.0)


def opened() -> Breaker:
    breaker = Breaker(POLICY)
    for failed in (False, True, False, True):
        breaker.ended(allowed(breaker), failed, 0.0)
    return breaker


def allowed(breaker: Breaker, now: float = 0.0) -> Permit:
    permit = breaker.allows(now)
    assert permit is not None
    return permit


def test_it_opens_at_its_share_of_the_last_calls_and_not_before() -> None:
    breaker = Breaker(POLICY)
    for failed in (True, True, True):  # fewer than it looks at
        breaker.ended(allowed(breaker), failed, 0.0)
    assert breaker.state == "closed"
    breaker.ended(allowed(breaker), False, 0.0)
    assert breaker.state == "open"
    assert breaker.allows(9.9) is None


def test_one_call_tries_and_its_end_decides() -> None:
    breaker = opened()
    probe = allowed(breaker, 10.0)
    assert breaker.state == "half-open"
    assert breaker.allows(10.0) is None
    breaker.ended(probe, True, 11.0)
    assert (breaker.state, breaker.allows(20.9)) == ("open", None)
    breaker.ended(allowed(breaker, 21.0), False, 21.5)
    assert breaker.state == "closed"
    for _ in range(3):  # what was before is forgotten
        breaker.ended(allowed(breaker, 22.0), True, 22.0)
    assert breaker.state == "closed"


@pytest.mark.parametrize("failed", [False, True])
def test_calls_from_before_it_opened_change_nothing(failed: bool) -> None:
    breaker = Breaker(POLICY)
    old = [allowed(breaker) for _ in range(20)]
    for _ in range(4):
        breaker.ended(old.pop(), True, 0.0)
    breaker.ended(old.pop(), failed, 1.0)
    breaker.withdrawn(old.pop())
    assert breaker.state == "open"
    probe = allowed(breaker, 10.0)
    breaker.ended(old.pop(), failed, 11.0)
    breaker.withdrawn(old.pop())
    assert (breaker.state, breaker.allows(30.0)) == ("half-open", None)
    breaker.ended(probe, False, 31.0)
    for _ in range(4):
        breaker.ended(old.pop(), True, 32.0)
    assert breaker.state == "closed"


def test_a_probe_that_is_withdrawn_leaves_the_next_call_to_try() -> None:
    breaker = opened()
    first = allowed(breaker, 10.0)
    breaker.withdrawn(first)
    assert breaker.state == "open"
    second = allowed(breaker, 10.0)
    breaker.ended(first, False, 11.0)  # its end is not the end of the other one
    assert breaker.state == "half-open"
    breaker.ended(second, False, 12.0)
    assert breaker.state == "closed"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60))
def test_open_means_no_call_and_never_for_ever(steps: list[tuple[bool, int]]) -> None:
    breaker, now, opened_at = Breaker(POLICY), 0.0, -POLICY.wait
    for failed, passed in steps:
        now += passed
        before = breaker.state
        permit = breaker.allows(now)
        assert (permit is not None) == (before == "closed" or now - opened_at >= POLICY.wait)
        if permit is not None:
            breaker.ended(permit, failed, now)
            opened_at = now if breaker.state == "open" else opened_at
            if before == "open":
                assert breaker.state == ("open" if failed else "closed")
    assert breaker.allows(now + POLICY.wait) is not None


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


class Gated:
    """A call of it is under way until its gate opens."""

    version = "v"

    def __init__(self, gates: int) -> None:
        self.began = [threading.Event() for _ in range(gates)]
        self.gates = [threading.Event() for _ in range(gates)]
        self.calls = 0

    def score(self, columns: Mapping[str, Any], rows: int, deadline: float = inf) -> Scores:
        call, self.calls = self.calls, self.calls + 1
        if call < len(self.gates):
            self.began[call].set()
            assert self.gates[call].wait(30)
            raise Unavailable
        return Scores(np.zeros(rows))


def test_a_probe_that_is_cancelled_is_not_waited_for() -> None:
    """Lanes that are taken away cancel what they have asked; the next batch has to try instead."""
    model = Gated(2)
    answers = Answers({"m": Source(model, timedelta(seconds=30), BreakerPolicy(calls=1, wait=0.0))})

    async def states() -> list[str]:
        model.gates[0].set()
        await answers([ask(1)])
        found = [answers.states()["m"]]
        probe = asyncio.create_task(answers([ask(1)]))
        await asyncio.to_thread(model.began[1].wait, 30)
        found.append(answers.states()["m"])
        probe.cancel()
        await asyncio.wait([probe])
        found.append(answers.states()["m"])
        assert (await answers([ask(1)]))[0].reasons == [None]
        model.gates[1].set()
        return [*found, answers.states()["m"]]

    assert asyncio.run(states()) == ["open", "half-open", "open", "closed"]


def test_a_cancelled_call_that_is_no_probe_changes_nothing() -> None:
    model = Gated(3)
    answers = Answers({"m": Source(model, timedelta(seconds=30), BreakerPolicy(calls=1, wait=0.0))})

    async def states() -> list[str]:
        old = asyncio.create_task(answers([ask(1)]))
        await asyncio.to_thread(model.began[0].wait, 30)
        model.gates[1].set()
        await answers([ask(1)])
        probe = asyncio.create_task(answers([ask(1)]))
        await asyncio.to_thread(model.began[2].wait, 30)
        old.cancel()
        await asyncio.wait([old])
        found = [answers.states()["m"], *(await answers([ask(1)]))[0].reasons]
        model.gates[0].set()
        model.gates[2].set()
        await probe
        return [*map(str, found), answers.states()["m"]]

    assert asyncio.run(states()) == ["half-open", "breaker_open", "open"]


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
