"""How often language models may be asked: buckets, their script in a real Redis, waiting for a turn, and servers that
refuse."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.llm.latency import LatencyPolicy
from streamproc.core.llm.policy import CALLS
from streamproc.core.llm.rates import DEAF, FLOOR, MILLION, RECOVERS, Bucket, Buckets, LimitsPlan, Pace, Rate
from streamproc.core.llm.request import INPUT_BOUND, LIMIT_KEY, MOST_TOKENS, SYSTEM, USER
from streamproc.core.processor import Answer, Score
from streamproc.io.breaker import BreakerPolicy
from streamproc.io.llm.endpoint import Endpoint
from streamproc.io.llm.limits import TAKE, Limits
from streamproc.io.llm.model import LlmModel, LlmPolicy
from streamproc.io.llm.shared import Shared
from tests.fast.test_llm_parts import PLAN
from tests.llm_server import Behaviour, Server, in_turn, said, serving, status
from tests.redis_server import RedisServer, is_installed

TEXT = '{"score": 0.5}'
needs_redis = pytest.mark.skipif(not is_installed(), reason="no redis-server is installed")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


rates = st.builds(Rate, st.integers(1, 5), st.integers(5, 60))
arrivals = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), max_size=60)


def bucket(rate: Rate) -> Bucket:
    return Bucket(rate.interval, rate.tolerance)


def conforms(times: Sequence[int], rate: Rate) -> bool:
    """Whether no stretch of time has more requests than come in it and a bucket full of them."""
    ordered = sorted(times)
    return all(
        last - first >= (end - begin + 1 - rate.requests) * rate.interval
        for begin, first in enumerate(ordered)
        for end, last in enumerate(ordered[begin:], begin)
    )


@settings(max_examples=300)
@given(rates, arrivals, st.booleans())
def test_a_bucket_gives_the_places_that_a_plain_loop_gives(rate: Rate, arrivals: Any, keyed: bool) -> None:
    """The earliest time at which a request does not make too many of all stretches that it ends."""
    buckets, now, given_ = Buckets(), 0, list[int]()
    for passed, most in arrivals:
        now += passed
        count = len(given_)
        earliest = max(
            [now, *(at + (count - place + 1 - rate.requests) * rate.interval for place, at in enumerate(given_))]
        )
        own, all_ = (bucket(rate), None) if keyed else (None, bucket(rate))
        turn = buckets.take(all_, "a", own, now, most)
        assert (turn.granted, turn.wait) == ("yes" if earliest - now <= most else "no", earliest - now)
        if turn.granted == "yes":
            given_.append(earliest)
    assert conforms(given_, rate)


@settings(max_examples=200)
@given(rates, rates, st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20), st.integers(0, 90)), max_size=60))
def test_two_buckets_hold_both_bounds_and_refusals_take_nothing(all_: Rate, each: Rate, arrivals: Any) -> None:
    buckets, waiting, used = Buckets(), list[tuple[int, int, str, int]](), list[int]()
    places: dict[str, list[int]] = {"a": [], "b": []}
    now = 0
    for number, (key, passed, most) in enumerate(arrivals):
        now += passed
        waiting.append((now, number, key, now + most))
    first = {number for _, number, _, _ in waiting}
    while waiting:
        waiting.sort()
        now, number, key, until = waiting.pop(0)
        before = deepcopy(buckets)
        own = bucket(each) if number in first else None
        first.discard(number)
        turn = buckets.take(bucket(all_), key, own, now, until - now)
        if turn.granted == "no":
            assert turn.wait > until - now
            assert (buckets._all, buckets._keys) == (before._all, before._keys)
            continue
        assert now + turn.wait <= until
        if own is not None:
            places[key].append(now + turn.wait)
        if turn.granted == "again":
            waiting.append((now + turn.wait, number, key, until))
        else:
            used.append(now + turn.wait)
    assert conforms(used, all_)
    assert all(conforms(one, each) for one in places.values())


def test_a_key_that_floods_keeps_nobody_else_waiting() -> None:
    buckets, all_, each = Buckets(), bucket(Rate(10, 1_000)), bucket(Rate(1, 1_000))
    for _ in range(100):
        buckets.take(all_, "a", each, 0, 10**6)
    assert buckets.take(all_, "b", each, 0, 10**6).wait == 0


def test_keys_in_memory_are_bounded() -> None:
    buckets = Buckets(most_keys=10)
    for number in range(100):
        buckets.take(None, f"key {number}", bucket(Rate(1, 100)), 0, 0)
        assert buckets.take(None, f"key {number}", bucket(Rate(1, 100)), 0, 0).granted == "no"
    assert len(buckets) == 10


def test_refusals_of_a_server_halve_the_rate_and_it_comes_back_by_and_by() -> None:
    pace, rate = Pace(), Rate(10, MILLION)
    assert pace.bucket(rate, 0).interval == 100_000
    pace.limited(0)
    pace.limited(DEAF - 1)  # of the same moment
    assert pace.bucket(rate, 0).interval == 200_000
    assert pace.share(4 * MILLION) == MILLION // 2 + 4 * RECOVERS
    pace.limited(4 * MILLION, after=3 * MILLION)
    assert pace.share(7 * MILLION) == (MILLION // 2 + 4 * RECOVERS) // 2
    for number in range(100):
        pace.limited((10 + 2 * number) * MILLION)
    assert FLOOR <= pace.share(208 * MILLION) < 2 * RECOVERS + FLOOR
    assert pace.share(1_000 * MILLION) == MILLION


def numbers(*rates: Rate | None) -> list[int]:
    return [n for rate in rates for n in ((0, 0) if rate is None else (rate.interval, rate.tolerance))]


LONG = 60.0
"""Seconds: what a script says is compared, however busy the machine is."""
slower = st.none() | st.builds(Rate, st.integers(1, 4), st.integers(100, 5_000))


@needs_redis
@settings(max_examples=60, deadline=None)
@given(all_=slower, each=slower, asks=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 8_000)), max_size=30))
def test_the_script_says_what_the_buckets_say(
    redis: RedisServer, all_: Rate | None, each: Rate | None, asks: Any
) -> None:
    async def go() -> None:
        there, buckets = Shared(redis.url, "p", LONG), Buckets()
        one, two = (None if rate is None else bucket(rate) for rate in (all_, each))
        for key, most in asks:
            said_ = await there.run(TAKE, ["p:rate", f"p:rate:{key}"], most, *numbers(all_, each))
            assert said_ is not None
            turn = buckets.take(one, key, two, said_[2], most)
            assert (("no", "yes", "again")[said_[0]], said_[1]) == (turn.granted, turn.wait)
        await there.close()

    with redis.client() as client:
        client.flushall()
    asyncio.run(go())


WORKER = """
import asyncio, sys
from streamproc.io.llm.limits import TAKE
from streamproc.io.llm.shared import Shared

async def go(url, number):
    shared, found = Shared(url, "p", 60.0), []
    for turn in range(250):
        key = f"p:rate:{turn % 3}"
        granted, wait, now = await shared.run(TAKE, ["p:rate", key], 200_000, 1_000, 9_000, 4_000, 8_000)
        found.append([key, granted, now + wait])
        await asyncio.sleep(0.001)
    await shared.close()
    import json
    print(json.dumps(found))

asyncio.run(go(sys.argv[1], int(sys.argv[2])))
"""


@needs_redis
def test_four_processes_keep_one_rate(redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, redis.url, str(number)], stdout=subprocess.PIPE)
        for number in range(4)
    ]
    found = [orjson.loads(worker.communicate(timeout=120)[0]) for worker in workers]
    asked = [one for own in found for one in own]
    used = [at for _, granted, at in asked if granted == 1]
    assert conforms(used, Rate(10, 10_000))
    for key in {key for key, _, _ in asked}:
        assert conforms([at for of, granted, at in asked if granted and of == key], Rate(3, 12_000))
    assert sum(any(granted == 1 for _, granted, _ in own) for own in found) > 1
    with redis.client() as client:
        assert all(0 < client.pttl(name) < 10_000 for name in client.scan_iter())


def ask(keys: Sequence[str | None]) -> Score:
    count = len(keys)
    texts = {name: np.array([f"{name} {row}" for row in range(count)], object) for name in (SYSTEM, USER)}
    own = {LIMIT_KEY: np.array(keys, object), INPUT_BOUND: np.full(count, 30), MOST_TOKENS: np.full(count, 50)}
    return Score("llm", {**texts, **own}, [f"0-{row}" for row in range(count)])


@contextmanager
def model(
    behaviour: Behaviour,
    limits: LimitsPlan,
    shared: Shared | None = None,
    latency: LatencyPolicy = LatencyPolicy(hedges=0.0),  # noqa: B008
    **policy: Any,
) -> Iterator[tuple[LlmModel, Server]]:
    with serving(behaviour) as server:
        endpoint = Endpoint(server.url, {}, BreakerPolicy(calls=1_000))
        made = LlmModel(
            [endpoint],
            LlmPolicy("some-model", latency=latency, **policy),
            replace(PLAN, limits=limits),
            [],
            shared=shared,
        )
        try:
            yield made, server
        finally:
            made.close()


def answered(made: LlmModel, keys: Sequence[str | None], seconds: float) -> tuple[Answer, float]:
    began = time.monotonic()
    answer = made.answer(ask(keys), began + seconds)
    return answer, time.monotonic() - began


def every(milliseconds: int) -> Rate:
    return Rate(1, milliseconds * 1_000)


def test_what_is_over_the_rate_waits_and_what_would_wait_too_long_is_told_at_once() -> None:
    with model(said(TEXT), LimitsPlan(every(100))) as (made, stub):
        answer, took = answered(made, [None] * 12, 0.55)
        assert answer.reasons.count(None) == len(stub.asked)
        assert 4 <= len(stub.asked) <= 6
        assert answer.reasons == [None] * len(stub.asked) + ["rate_limited"] * (12 - len(stub.asked))
        assert 0.1 * (len(stub.asked) - 1) <= took < 0.6
        # What was refused has taken no place: the next one is as near as ever.
        answer, took = answered(made, [None], 0.5)
        assert answer.reasons == [None]
        assert took < 0.25


def test_each_key_has_a_rate_and_waits_for_itself_alone() -> None:
    with model(said(TEXT), LimitsPlan(Rate(100, MILLION), "tenant", every(200))) as (made, stub):
        answer, _ = answered(made, ["a"] * 8 + ["b"], 0.5)
        assert answer.reasons[-1] is None
        assert 2 <= answer.reasons[:8].count(None) <= 3
        assert [body["messages"][1]["content"] for body in stub.asked[:2]] in (
            [f"{USER} 0", f"{USER} 8"],
            [f"{USER} 8", f"{USER} 0"],
        )


def test_who_waits_for_a_turn_is_not_in_flight() -> None:
    with model(said(TEXT), LimitsPlan(None, "tenant", every(400)), in_flight=1) as (made, _):
        began = time.monotonic()
        answer, _ = answered(made, ["a", "a", *"bcdefgh"], 1.0)
        assert answer.reasons == [None] * 9
        assert made.answer(ask(["x"]), time.monotonic() + 1).reasons == [None]
        assert time.monotonic() - began < 0.9


def test_who_has_no_time_left_for_a_call_takes_no_turn() -> None:
    async def slow(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
        await asyncio.sleep(0.25)
        return await said(TEXT)(server, request, body)

    with model(slow, LimitsPlan(None, "tenant", every(100)), in_flight=64) as (made, stub):
        answered(made, [str(number) for number in range(24)], 3.0)
        answer, _ = answered(made, ["a"] * 8, 0.6)
        assert {*answer.reasons} == {None, "rate_limited"}
        assert len(stub.asked) == 24 + answer.reasons.count(None)


def test_first_come_is_first_served() -> None:
    with model(said(TEXT), LimitsPlan(every(20))) as (made, stub):
        answered(made, [None] * 10, 1.0)
        assert [body["messages"][1]["content"] for body in stub.asked] == [f"{USER} {row}" for row in range(10)]


def test_second_calls_and_further_attempts_have_turns_too() -> None:
    with model(status(503), LimitsPlan(every(150))) as (made, stub):
        answer, _ = answered(made, [None], 0.4)
        assert answer.reasons == ["model_unavailable"]
        assert len(stub.asked) <= 3
        assert answered(made, [None], 0.01)[0].reasons == ["rate_limited"]
    hedging = LatencyPolicy(p95=0.05, p99=1.0, hedges=1.0)

    async def slow(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
        await asyncio.sleep(0.3)
        return await said(TEXT)(server, request, body)

    with model(slow, LimitsPlan(every(5_000)), latency=hedging) as (made, stub):
        answer, _ = answered(made, [None], 1.0)
        assert (answer.reasons, answer.columns[CALLS].tolist()) == ([None], [1.0])


def test_a_server_that_refuses_is_asked_half_as_often() -> None:
    with model(in_turn(status(429), said(TEXT)), LimitsPlan(every(50))) as (made, _):
        answered(made, [None], 1.0)
        answer, took = answered(made, [None] * 8, 2.0)
        assert answer.reasons == [None] * 8
        assert took > 0.6


def limiting(most: int, seconds: float) -> tuple[Behaviour, list[bool]]:
    """A server that answers so many requests in any stretch of time, and refuses what is more."""
    times, taken = list[float](), list[bool]()

    async def behaviour(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
        now = time.monotonic()
        times[:] = [one for one in times if one > now - seconds]
        taken.append(len(times) < most)
        if not taken[-1]:
            return await status(429)(server, request, body)
        times.append(now)
        return await said(TEXT)(server, request, body)

    return behaviour, taken


def test_a_server_that_limits_is_asked_as_often_as_it_bears() -> None:
    behaviour, taken = limiting(10, 0.5)
    with model(behaviour, LimitsPlan(every(20))) as (made, _):
        began = time.monotonic()
        while time.monotonic() - began < 6.0:
            answered(made, [None] * 4, 1.0)
    late = taken[len(taken) // 2 :]
    assert late.count(False) < 0.3 * len(late), (len(taken), taken.count(False), late.count(False))
    assert taken.count(True) > 30


@needs_redis
def test_a_redis_that_hangs_lets_nothing_pass_and_nobody_wait(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path) as server,
        model(said(TEXT), LimitsPlan(every(1)), Shared(server.url, "p")) as (made, stub),
    ):
        assert answered(made, [None] * 3, 1.0)[0].reasons == [None] * 3
        server.pause()
        answer, took = answered(made, [None] * 8, 2.0)
        assert set(answer.reasons) == {"rate_limited"}
        assert took < 1.0
        server.go_on()
        deadline = time.monotonic() + 20
        while answered(made, [None], 1.0)[0].reasons != [None]:
            assert time.monotonic() < deadline
        server.kill()
        asked = len(stub.asked)
        assert set(answered(made, [None] * 8, 2.0)[0].reasons) == {"rate_limited"}
        assert len(stub.asked) == asked
        server.start()
        while answered(made, [None], 1.0)[0].reasons != [None]:
            assert time.monotonic() < deadline


@needs_redis
def test_many_who_wait_for_the_redis_are_not_refused(redis: RedisServer) -> None:
    async def go() -> list[bool]:
        there = Shared(redis.url, "many", LONG)
        limits = Limits(LimitsPlan(Rate(100_000, MILLION)), there)
        try:
            return await asyncio.gather(*(limits.turn(None, 60.0) for _ in range(2_000)))
        finally:
            await there.close()

    assert all(asyncio.run(go()))


@needs_redis
def test_two_models_share_a_rate(tmp_path: Path) -> None:
    async def go(url: str) -> int:
        both = [Shared(url, "p", LONG), Shared(url, "p", LONG)]
        limits = [Limits(LimitsPlan(Rate(5, 60 * MILLION)), one) for one in both]
        turns = [await limits[number % 2].turn(None, 0.0) for number in range(12)]
        for one in both:
            await one.close()
        return sum(turns)

    with RedisServer(tmp_path) as server:
        assert asyncio.run(go(server.url)) == 5
