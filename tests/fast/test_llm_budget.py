"""What language models may spend: the ledger, its scripts in a real Redis, and calls that are paid with it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.llm.budget import MILLION, BudgetPlan, Ledger, Limit, Part, Price
from streamproc.core.llm.latency import LatencyPolicy
from streamproc.core.llm.policy import CALLS, MONEY, TOKENS
from streamproc.core.llm.request import BUDGET_KEY, INPUT_BOUND, MOST_CALLS, MOST_TOKENS, SYSTEM, USER
from streamproc.core.processor import Answer, Score
from streamproc.io.breaker import BreakerPolicy
from streamproc.io.llm.budgets import MOST_KEPT, MOST_OWNERS, Budgets, Debt
from streamproc.io.llm.endpoint import Endpoint
from streamproc.io.llm.model import LlmModel, LlmPolicy
from streamproc.io.llm.shared import Shared
from streamproc.plan.prices import known_price
from tests.fast.test_llm_parts import PLAN
from tests.llm_server import Behaviour, Server, hang, in_turn, reset, said, serving, status
from tests.redis_server import RedisServer, is_installed

DAY = 86_400 * MILLION
TEXT = '{"score": 0.5}'
PRICE = Price(2_500_000, 10_000_000)
BOUND = 30 + 50
"""Tokens that a request of these tests can take; the stub says that it took 11 and 7."""
needs_redis = pytest.mark.skipif(not is_installed(), reason="no redis-server is installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


class PlainLedger:
    """The same, slowly: everything that happened, added up each time."""

    def __init__(self, ttl: int) -> None:
        self.ttl, self.held, self.spent = ttl, dict[tuple[str, str], tuple[int, int]](), list[tuple[str, int, int]]()

    def reserve(self, owner: str, parts: Sequence[Part], now: int) -> bool:
        wanted = {}
        for part in parts:
            account = str(part.account)
            held = {one: amount for (of, one), (amount, until) in self.held.items() if of == account and until > now}
            spent = sum(
                n for of, at, n in self.spent if of == account and at // part.limit.period == now // part.limit.period
            )
            held[owner] = max(held.get(owner, 0), part.amount)
            if spent + sum(held.values()) > part.limit.most:
                return False
            wanted[account, owner] = held[owner], now + self.ttl
        self.held |= wanted
        return True

    def settle(self, owner: str, parts: Sequence[Part], now: int) -> None:
        for part in parts:
            self.held.pop((str(part.account), owner), None)
            self.spent.append((str(part.account), now, part.amount))


steps = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle"]),
        st.sampled_from(["0-1", "0-2", "0-3"]),
        st.dictionaries(st.sampled_from("ab"), st.integers(0, 6), min_size=1),
        st.integers(0, 4),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(steps, st.integers(1, 8), st.integers(3, 20))
def test_a_ledger_says_what_a_plain_loop_says(steps: Any, ttl: int, period: int) -> None:
    ledger, plain, now = Ledger(ttl), PlainLedger(ttl), 0
    limits = {"a": Limit(10, period), "b": Limit(7, 2 * period)}
    for what, owner, wanted, passed in steps:
        now += passed
        parts = [Part(account, limits[account], amount) for account, amount in wanted.items()]
        if what == "reserve":
            assert ledger.reserve(owner, parts, now) == plain.reserve(owner, parts, now)
        else:
            ledger.settle(owner, parts, now)
            plain.settle(owner, parts, now)


def test_a_clock_that_goes_back_gives_nothing_back() -> None:
    ledger, part = Ledger(ttl=5), Part("a", Limit(10, 100), 10)
    assert ledger.reserve("0-1", [part], 250)
    ledger.settle("0-1", [part], 250)
    assert not ledger.reserve("0-2", [part], 150)
    assert ledger.reserve("0-2", [part], 300)


def test_prices_are_rounded_up_and_exact() -> None:
    assert Price(1, 0).of(1, 0) == 1
    assert PRICE.of(11, 7) == 98
    assert Price(2_500_000, 10_000_000).of(10**9, 10**9) == 12_500 * MILLION


def test_prices_are_known_by_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something is fetched")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert known_price("gpt-4o", 1_500) == PRICE
    assert known_price("some-model", 1_500) is None


def shared(server: RedisServer, prefix: str = "streamproc:{p:llm}") -> Shared:
    return Shared(server.url, prefix, 60.0)  # however busy the machine is


TOKENS_ONLY = BudgetPlan("tenant", Limit(10 * BOUND, DAY), in_lanes=False)


@needs_redis
@settings(max_examples=40, deadline=None)
@given(steps=steps)
def test_the_scripts_say_what_the_ledger_says(redis: RedisServer, steps: Any) -> None:
    """Nothing expires meanwhile: the Redis has a clock of its own."""
    money = Limit(7, 365 * DAY)
    plan = BudgetPlan("tenant", Limit(10, 365 * DAY), money, PRICE, in_lanes=False)

    async def go() -> None:
        there = shared(redis)
        budgets, ledger = Budgets(there, plan, 1_000.0), Ledger(1_000 * MILLION)
        try:
            for what, owner, wanted, _ in steps:
                tokens, cost = wanted.get("a", 0), wanted.get("b", 0)
                assert plan.tokens is not None
                parts = [Part("a", plan.tokens, tokens), Part("b", money, cost)]
                if what == "reserve":
                    assert await budgets.reserve(owner, "acme", tokens, cost) == ledger.reserve(owner, parts, 0)
                else:
                    budgets.owe(Debt(owner, "acme", tokens, cost))
                    ledger.settle(owner, parts, 0)
                    assert await budgets.tell()
        finally:
            await there.close()

    with redis.client() as client:
        client.flushall()
    asyncio.run(go())


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


WORKER = """
import asyncio, sys
from streamproc.core.llm.budget import BudgetPlan, Limit
from streamproc.io.llm.budgets import Budgets, Debt
from streamproc.io.llm.shared import Shared

async def go(url, number):
    shared = Shared(url, "streamproc:{p:llm}", 60.0)
    budgets = Budgets(shared, BudgetPlan("tenant", Limit(10_000, 10**15), in_lanes=False), 100.0)
    granted = 0
    print("ready", flush=True)
    sys.stdin.readline()  # all begin together
    for turn in range(400):
        amount = 1 + (turn * 7 + number) % 90
        if await budgets.reserve(f"{number}-{turn}", "acme", amount, 0):
            if turn % 3:
                budgets.owe(Debt(f"{number}-{turn}", "acme", amount, 0))
                assert await budgets.tell()
            granted += amount
    for turn in range(400, 600):  # what is left goes in small pieces
        granted += await budgets.reserve(f"{number}-{turn}", "acme", 1, 0)
    await shared.close()
    print(granted)

asyncio.run(go(sys.argv[1], int(sys.argv[2])))
"""


@needs_redis
def test_four_processes_are_granted_the_limit_and_no_more(server: RedisServer) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, server.url, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    granted = [int(worker.communicate(timeout=120)[0]) for worker in workers]
    assert sum(granted) == 10_000, granted
    assert sum(one > 0 for one in granted) > 1  # they were at it together


@needs_redis
def test_what_a_dead_owner_reserved_is_given_back(server: RedisServer) -> None:
    async def go() -> None:
        there = shared(server)
        budgets = Budgets(there, TOKENS_ONLY, 0.3)
        assert await budgets.reserve("0-1", "acme", 10 * BOUND, 0)
        assert not await budgets.reserve("0-2", "acme", 1, 0)
        assert await budgets.reserve("0-1", "acme", 10 * BOUND, 0)  # asked again: reserved once
        deadline = time.monotonic() + 5
        while not await budgets.reserve("0-2", "acme", 10 * BOUND, 0):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await there.close()

    asyncio.run(go())


@needs_redis
def test_keys_of_a_redis_expire_and_hold_no_text_of_events(server: RedisServer) -> None:
    plan = replace(TOKENS_ONLY, money=Limit(10**9, DAY), price=PRICE)

    async def go() -> None:
        there = shared(server)
        budgets = Budgets(there, plan, 1.0)
        for owner in ("0-1", "0-2"):
            assert await budgets.reserve(owner, "Jane Doe", BOUND, 1)
        budgets.owe(Debt("0-1", "Jane Doe", 18, 98))
        assert await budgets.tell()
        await there.close()

    asyncio.run(go())
    with server.client() as client:
        names = client.keys()
        assert len(names) == 4
        assert all(0 < client.pttl(name) <= 86_402_000 for name in names)
        assert not any(b"Jane" in name for name in names)
        assert sorted(client.hget(name, "spent") for name in names if not name.endswith(b":ends")) == [b"18", b"98"]


@needs_redis
def test_a_period_of_another_length_is_another_account(server: RedisServer) -> None:
    """Hours have larger numbers than days: what they say of one another would hold for years."""
    hour = replace(TOKENS_ONLY, tokens=Limit(10 * BOUND, DAY // 24))

    async def go() -> None:
        there = shared(server)
        for number, plan in enumerate((hour, TOKENS_ONLY)):
            budgets = Budgets(there, plan, 100.0)
            assert await budgets.reserve(f"0-{number}", "acme", 10 * BOUND, 0)
            budgets.owe(Debt(f"0-{number}", "acme", 10 * BOUND, 0))
            assert await budgets.tell()
            assert not await budgets.reserve("0-9", "acme", 1, 0)
        await there.close()

    asyncio.run(go())


@needs_redis
def test_what_is_refused_lets_no_account_live_longer(server: RedisServer) -> None:
    async def go() -> None:
        there = shared(server)
        budgets = Budgets(there, TOKENS_ONLY, 1.0)
        assert not await budgets.reserve("0-0", "acme", 10 * BOUND + 1, 0)
        budgets.owe(Debt("0-0", "acme", 0, 0))
        assert await budgets.tell()
        with server.client() as client:
            assert not client.keys()
            assert await budgets.reserve("0-1", "acme", 10 * BOUND, 0)
            budgets.owe(Debt("0-1", "acme", 10 * BOUND, 0))
            assert await budgets.tell()
            [book] = client.keys()
            client.pexpire(book, 5_000)
            assert not await budgets.reserve("0-2", "acme", 1, 0)
            budgets.owe(Debt("0-2", "acme", 0, 0))
            assert await budgets.tell()
            assert client.pttl(book) <= 5_000
        await there.close()

    asyncio.run(go())


NO_HEDGES = LatencyPolicy(p95=0.2, p99=0.3, hedges=0.0)


def ask(count: int, key: str = "acme", first: int = 0, **columns: Any) -> Score:
    texts = {name: np.array([f"{name} {row}" for row in range(count)], object) for name in (SYSTEM, USER)}
    own = {
        BUDGET_KEY: np.array([key] * count, object),
        INPUT_BOUND: np.full(count, 30),
        MOST_TOKENS: np.full(count, 50),
    }
    return Score("llm", {**texts, **own, **columns}, [f"0-{first + row}" for row in range(count)])


@contextmanager
def model(
    behaviour: Behaviour,
    budget: BudgetPlan,
    there: Shared | None = None,
    latency: LatencyPolicy = NO_HEDGES,
    **more: Any,
) -> Iterator[tuple[LlmModel, Server]]:
    with serving(behaviour) as server:
        endpoint = Endpoint(server.url, {}, BreakerPolicy(calls=1_000))
        policy = LlmPolicy("some-model", latency=latency, keep_reserved=1.0, **more)
        made = LlmModel([endpoint], policy, replace(PLAN, budget=budget), [], shared=there)
        try:
            yield made, server
        finally:
            made.close()


def answered(made: LlmModel, score: Score, seconds: float = 2.0) -> Answer:
    return made.answer(score, time.monotonic() + seconds)


@needs_redis
def test_what_is_over_the_budget_is_not_asked(server: RedisServer) -> None:
    with model(said(TEXT), replace(TOKENS_ONLY, price=PRICE), shared(server)) as (made, stub):
        answer = answered(made, ask(30))
        assert set(answer.reasons) == {None, "budget"}
        assert 10 <= answer.reasons.count(None) == len(stub.asked) < 30  # calls that ended have made room for others
        paid = [18.0 if reason is None else 0.0 for reason in answer.reasons]
        assert answer.columns[TOKENS].tolist() == paid
        assert answer.columns[MONEY].tolist() == [0.000098 if one else 0.0 for one in paid]
        first = len(stub.asked)
        while None in answered(made, ask(1, first=first)).reasons:
            first += 1
        assert 10 * BOUND - BOUND < 18 * len(stub.asked) <= 10 * BOUND  # it reaches the limit, and does not pass it
        assert answered(made, ask(1, "other")).reasons == [None]  # the budget is of each key
        assert len(stub.asked) == first + 1


@needs_redis
def test_only_rows_in_flight_hold_a_part_of_the_budget(server: RedisServer) -> None:
    """Of 300 rows two are asked about at once: their bounds are held, and what the others took is known."""
    plan = replace(TOKENS_ONLY, tokens=Limit(2 * BOUND + 300 * 18, DAY))
    with model(said(TEXT), plan, shared(server), in_flight=2) as (made, _):
        assert answered(made, ask(300), seconds=60.0).reasons == [None] * 300


@needs_redis
def test_money_is_of_all_keys(server: RedisServer) -> None:
    plan = BudgetPlan(money=Limit(PRICE.of(30, 50), DAY), price=PRICE, in_lanes=False)
    with model(said(TEXT), plan, shared(server)) as (made, stub):
        assert answered(made, ask(1, "a")).reasons == [None]
        assert answered(made, ask(1, "b", first=1)).reasons == ["budget"]
        assert len(stub.asked) == 1


@needs_redis
def test_each_further_call_is_reserved_too(server: RedisServer) -> None:
    """Whoever has the money for two calls makes two, and not three; a call of which nothing is known costs all that
    it can."""
    plan = replace(TOKENS_ONLY, tokens=Limit(2 * BOUND, DAY))
    with model(reset(), plan, shared(server)) as (made, stub):
        answer = answered(made, ask(1))
        assert answer.reasons == ["model_unavailable"]
        assert answer.columns[CALLS].tolist() == [2.0]
        assert answer.columns[TOKENS].tolist() == [2.0 * BOUND]
        assert answered(made, ask(1, first=1)).reasons == ["budget"]
        assert len(stub.asked) == 2


@needs_redis
def test_a_second_call_beside_a_slow_one_is_paid_as_well(server: RedisServer) -> None:
    hedging = LatencyPolicy(p95=0.05, p99=1.0, hedges=1.0)
    for limit, calls in ((2 * BOUND, 2), (2 * BOUND - 1, 1)):
        plan = replace(TOKENS_ONLY, tokens=Limit(limit, DAY))
        with model(in_turn(hang(), said(TEXT)), plan, shared(server, f"p{calls}"), hedging) as (made, stub):
            answer = answered(made, ask(1), seconds=0.8)
            assert len(stub.asked) == calls
            assert answer.reasons == [None if calls == 2 else "timeout"]
            # The one that was cancelled is paid as if it had taken all that it may.
            assert answer.columns[TOKENS].tolist() == [BOUND + 18.0 if calls == 2 else BOUND]


def test_refusals_cost_nothing() -> None:
    with model(status(503), BudgetPlan(price=PRICE)) as (made, stub):
        answer = answered(made, ask(1))
        assert len(stub.asked) == 3
        assert (answer.columns[TOKENS].tolist(), answer.columns[MONEY].tolist()) == ([0.0], [0.0])


def test_lanes_say_how_many_calls_there_may_be() -> None:
    with model(reset(), BudgetPlan()) as (made, stub):
        answer = answered(made, ask(2, **{MOST_CALLS: np.array([2, 1])}))
        assert answer.columns[CALLS].tolist() == [2.0, 1.0]
        assert len(stub.asked) == 3


@needs_redis
def test_a_redis_that_hangs_dies_and_comes_back_costs_no_time_and_no_money(server: RedisServer) -> None:
    with model(said(TEXT), TOKENS_ONLY, Shared(server.url, "streamproc:{p:llm}")) as (made, stub):
        assert answered(made, ask(1)).reasons == [None]
        server.pause()
        began = time.monotonic()
        assert set(answered(made, ask(8, first=1)).reasons) == {"budget"}
        assert time.monotonic() - began < 1.0
        began = time.monotonic()
        assert set(answered(made, ask(8, first=20)).reasons) == {"budget"}
        assert time.monotonic() - began < 0.2  # it has just failed: nobody waits for it
        server.go_on()
        asked = len(stub.asked)
        assert asked == 1
        until_it_answers(made, stub, 100)
        server.kill()
        asked = len(stub.asked)
        assert set(answered(made, ask(8, first=200)).reasons) == {"budget"}
        assert len(stub.asked) == asked
        server.start()
        until_it_answers(made, stub, 300)


@needs_redis
def test_rows_that_a_redis_was_never_asked_for_owe_nothing(server: RedisServer) -> None:
    with model(said(TEXT), TOKENS_ONLY, shared(server)) as (made, _):
        assert answered(made, ask(1)).reasons == [None]
        server.kill()
        for turn in range(5):
            assert set(answered(made, ask(200, first=1 + 200 * turn)).reasons) == {"budget"}
        assert made._budgets is not None
        assert made._budgets._owners <= 8  # until the breaker opened


@needs_redis
def test_debts_are_told_by_key_and_never_left_out(server: RedisServer) -> None:
    """Two keys' worth of 11,000 rows in a few scripts; beyond the bound owners are forgotten, and no spending."""

    async def go() -> None:
        there = Counting(server.url, "streamproc:{p:llm}")
        budgets = Budgets(there, replace(TOKENS_ONLY, tokens=Limit(10**9, DAY)), 100.0)
        assert await budgets.reserve("0-0", "a", 500, 0)
        for row in range(11_000):
            budgets.owe(Debt(f"0-{row}", "ab"[row % 2], 1 + row % 2, 0))
        for row in range(1_000):
            budgets.owe(Debt(f"1-{row}", f"c{row}", 0, 0))
        assert budgets._owners == MOST_KEPT
        assert set(budgets._debts) == {"a", "b"}
        before = there.runs
        assert await budgets.tell()
        assert (there.runs - before, budgets._owners) == (MOST_KEPT // MOST_OWNERS, 0)
        await there.close()

    asyncio.run(go())
    with server.client() as client:
        books = [name for name in client.scan_iter() if not name.endswith(b":ends")]
        assert sorted(int(client.hget(book, "spent") or 0) for book in books) == [5_500, 11_000]
        assert sum(int(client.hget(book, "held") or 0) for book in books) == 0


class Counting(Shared):
    """Counts scripts, and can lose what they say."""

    runs = 0
    loses = 0

    async def run(self, *args: Any, **more: Any) -> list[int] | None:
        self.runs += 1
        said_ = await super().run(*args, **more)
        if self.loses:
            self.loses -= 1
            return None
        return said_


@needs_redis
def test_what_is_told_again_counts_once(server: RedisServer) -> None:
    async def go() -> None:
        there = Counting(server.url, "streamproc:{p:llm}")
        budgets = Budgets(there, TOKENS_ONLY, 100.0)
        budgets.owe(Debt("0-1", "acme", 100, 0))
        there.loses = 3
        assert [await budgets.tell() for _ in range(2)] == [False, False]
        budgets.owe(Debt("0-2", "acme", 7, 0))
        assert [await budgets.tell() for _ in range(2)] == [False, True]
        await there.close()

    asyncio.run(go())
    with server.client() as client:
        [book] = client.keys()
        assert client.hget(book, "spent") == b"107"


@needs_redis
def test_rows_that_reach_their_deadline_say_nothing_of_the_redis(server: RedisServer) -> None:
    async def go() -> None:
        there = shared(server)
        budgets = Budgets(there, TOKENS_ONLY, 100.0)
        for number in range(4):
            assert await budgets.reserve(f"0-{number}", "acme", 1, 0)
        server.pause()
        for number in range(8):
            waiting = asyncio.create_task(budgets.reserve(f"1-{number}", "acme", 1, 0))
            await asyncio.sleep(0)
            assert there._turns.locked()  # it is its turn
            waiting.cancel()
            await asyncio.wait({waiting})
        server.go_on()
        assert there._breaker.state == "closed"
        assert await budgets.reserve("2-0", "acme", 1, 0)
        await there.close()

    asyncio.run(go())


def until_it_answers(made: LlmModel, stub: Server, first: int) -> None:
    deadline = time.monotonic() + 20
    while answered(made, ask(1, first=first)).reasons != [None]:
        assert time.monotonic() < deadline
        first += 1


@needs_redis
def test_what_was_spent_while_a_redis_hung_is_told_before_more_is_spent(server: RedisServer) -> None:
    plan = replace(TOKENS_ONLY, tokens=Limit(BOUND + 17, DAY))

    async def hanging(stub: Server, request: Any, body: dict[str, Any]) -> Any:
        server.pause()
        return await said(TEXT)(stub, request, body)

    with model(hanging, plan, shared(server)) as (made, stub):
        assert answered(made, ask(1)).reasons == [None]
        server.go_on()
        deadline = time.monotonic() + 2.5  # the Redis is asked again, and the reservation has gone meanwhile
        reasons: list[Any] = []
        while time.monotonic() < deadline:
            reasons += answered(made, ask(1, first=1 + len(reasons))).reasons
        assert set(reasons) == {"budget"}
        assert len(stub.asked) == 1
    with server.client() as client:
        [book] = [name for name in client.scan_iter() if not name.endswith(b":ends")]
        assert client.hmget(book, "spent", "held") == [b"18", b"0"]
