"""A language model over real sockets: what servers do wrong, deadlines, second calls, several endpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from streamproc.core.llm.latency import LatencyPolicy
from streamproc.core.llm.policy import CALLS, OUTPUT_TOKENS, LlmPlan
from streamproc.core.llm.request import INPUT_BOUND, MOST_TOKENS, SYSTEM, USER
from streamproc.core.processor import Answer, Score
from streamproc.demo.llm_server import DONE, chunk
from streamproc.errors import UserError
from streamproc.io.breaker import BreakerPolicy
from streamproc.io.llm.endpoint import Endpoint
from streamproc.io.llm.model import LlmModel, LlmPolicy
from streamproc.io.model import Unavailable
from tests.fast.test_llm_parts import PLAN
from tests.llm_server import USAGE, Behaviour, Server, hang, in_turn, reset, said, serving, status, stream

TEXT = '{"score": 0.5}'
SECONDS = 2.0
NO_HEDGES = LatencyPolicy(p95=0.2, p99=0.3, hedges=0.0)


def ask(count: int = 1) -> Score:
    """Rows with texts of their own."""
    columns: dict[str, Any] = {
        INPUT_BOUND: np.full(count, 30),
        SYSTEM: np.array(["be brief"] * count, object),
        USER: np.array([f"text {row}" for row in range(count)], object),
        MOST_TOKENS: np.full(count, 50),
    }
    return Score("llm", columns, [f"0-{row}" for row in range(count)])


@contextmanager
def model(
    behaviours: Sequence[Behaviour],
    latency: LatencyPolicy = NO_HEDGES,
    breaker: BreakerPolicy = BreakerPolicy(),  # noqa: B008
    plan: LlmPlan = PLAN,
    **policy: Any,
) -> Iterator[tuple[LlmModel, list[Server]]]:
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(one)) for one in behaviours]
        endpoints = [Endpoint(server.url, {"Authorization": "Bearer secret"}, breaker) for server in servers]
        made = LlmModel(endpoints, LlmPolicy("some-model", latency=latency, **policy), plan, [])
        try:
            yield made, servers
        finally:
            made.close()


def answered(made: LlmModel, rows: int = 1, seconds: float = SECONDS) -> Answer:
    """Its answer, which comes in time whatever servers do."""
    began = time.monotonic()
    answer = made.answer(ask(rows), began + seconds)
    assert time.monotonic() - began < seconds + 1.0
    assert len(answer.values) == len(answer.reasons) == rows
    return answer


def test_each_row_is_asked_about_with_what_it_may_take() -> None:
    with model([said(TEXT)], parameters={"seed": 7}) as (made, [server]):
        answer = answered(made, 3)
        assert answer.values == [TEXT] * 3
        assert answer.reasons == [None] * 3
        assert answer.columns[CALLS].tolist() == [1, 1, 1]
        assert answer.columns[OUTPUT_TOKENS].tolist() == [7, 7, 7]
        assert answer.versions == [f"{made.version}@stub-1"] * 3
    assert sorted(body["messages"][1]["content"] for body in server.asked) == ["text 0", "text 1", "text 2"]
    assert {(body["model"], body["max_tokens"], body["temperature"], body["seed"]) for body in server.asked} == {
        ("some-model", 50, 0, 7)
    }


BAD: dict[str, tuple[Behaviour, str]] = {
    "a page of HTML instead": (status(200, "<html>hello</html>"), "model_error"),
    "JSON that is none": (status(200, '{"choices": [', content_type="application/json"), "model_error"),
    "JSON of another kind": (status(200, "[1]", content_type="application/json"), "model_error"),
    "an error with status 200": (
        status(200, '{"error": {"message": "x"}}', content_type="application/json"),
        "model_error",
    ),
    "no choices": (status(200, "{}", content_type="application/json"), "model_error"),
    "a stream that is cut": (stream(chunk('{"sco')), "model_error"),
    "a stream that is cut before it is done": (stream(chunk(TEXT), chunk(finish="stop")), "model_error"),
    "done before the answer is": (stream(chunk(TEXT), DONE), "model_error"),
    "an event that is no JSON": (stream(b"data: {oops\n\n", DONE), "model_error"),
    "content that is no text": (stream(b'data: {"choices":[{"delta":{"content":5}}]}\n\n', DONE), "model_error"),
    "an event without an end": (stream(b"data: " + b"x" * (2 << 20)), "model_error"),
    "an answer without an end": (stream(*[chunk("y" * 60_000)] * 30), "model_error"),
    "status 500": (status(500), "model_unavailable"),
    "status 503": (status(503), "model_unavailable"),
    "status 429": (status(429), "rate_limited"),
    "status 401": (status(401), "model_error"),
    "another address": (status(307), "model_error"),
    "a connection that breaks": (reset(), "model_unavailable"),
    "an answer that is too long": (said(TEXT, "length"), "truncated"),
    "an answer that is filtered": (said("", "content_filter"), "refused"),
    "a refusal": (
        stream(b'data: {"choices":[{"delta":{"refusal":"no"},"finish_reason":"stop"}]}\n\n', DONE),
        "refused",
    ),
    "a call of a tool": (said("", "tool_calls"), "unwanted_output"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_servers_do_wrong_is_a_reason(name: str) -> None:
    behaviour, reason = BAD[name]
    with model([behaviour], breaker=BreakerPolicy(calls=100)) as (made, _):
        answer = answered(made)
        assert (answer.values, answer.reasons) == ([None], [reason])


@pytest.mark.parametrize("name", ["status 401", "another address", "a refusal", "an answer that is too long"])
def test_what_would_come_again_is_not_asked_again(name: str) -> None:
    with model([BAD[name][0]]) as (made, [server]):
        answered(made)
        assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["status 503", "a connection that breaks", "a stream that is cut", "status 429"])
def test_what_may_go_well_is_tried_again(name: str) -> None:
    with model([in_turn(BAD[name][0], said(TEXT))]) as (made, [server]):
        answer = answered(made)
        assert answer.values == [TEXT]
        assert answer.columns[CALLS].tolist() == [2.0]
        assert len(server.asked) == 2


def test_attempts_are_bounded() -> None:
    with model([status(500)], breaker=BreakerPolicy(calls=100)) as (made, [server]):
        answered(made)
        assert len(server.asked) == 3


def test_a_server_that_wants_to_be_left_alone_is() -> None:
    with model([status(429, after="30")]) as (made, [server]):
        assert answered(made).reasons == ["rate_limited"]
        assert answered(made).reasons == ["breaker_open"]
        assert len(server.asked) == 1


def test_it_is_that_server_and_no_other() -> None:
    async def late(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
        await asyncio.sleep(0.3)
        return await status(500)(server, request, body)

    policy = LatencyPolicy(p95=0.05, p99=1.0, hedges=1.0)
    with model([late, status(429, after="30")], policy, BreakerPolicy(calls=100)) as (made, [one, quiet]):
        answered(made)
        answered(made)
        assert len(quiet.asked) == 1
        assert len(one.asked) >= 4


def test_a_hung_server_and_one_that_drips_cost_the_deadline_and_no_more() -> None:
    drip = stream(*[chunk("x")] * 200, wait=0.05)
    patient = LatencyPolicy(p95=5, p99=10, hedges=0.0)
    for behaviour in (hang(), drip):
        with model([behaviour], patient) as (made, [server]):
            assert answered(made, seconds=0.5).reasons == ["timeout"]
            assert server.left.wait(5.0)  # the connection is closed, and the server knows
            assert len(server.asked) == 1


def test_another_endpoint_answers_for_one_that_is_gone() -> None:
    with model([reset(), said(TEXT)], breaker=BreakerPolicy(calls=4)) as (made, [gone, there]):
        assert answered(made, 20).reasons == [None] * 20
        before = len(gone.asked)
        assert answered(made, 20).values == [TEXT] * 20
        assert len(gone.asked) == before  # its breaker is open
        assert len(there.asked) >= 40


def test_calls_in_flight_are_bounded_and_who_waits_in_vain_says_so() -> None:
    with model([hang()], in_flight=2) as (made, [server]):
        answer = answered(made, 6, seconds=0.5)
        assert len(server.asked) >= 2
        assert set(answer.reasons) == {"timeout", "busy"}


def test_second_calls_cut_the_tail_and_stay_few() -> None:
    """2 % of calls take 2 s. The 99th percentile with second calls is at most a third of that without."""

    def tailed(seed: int) -> Behaviour:
        chance, quick, slow = Random(seed), said(TEXT), stream(chunk(TEXT), chunk(finish="stop"), USAGE, DONE, wait=0.5)

        async def behaviour(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
            return await (slow if chance.random() < 0.02 else quick)(server, request, body)

        return behaviour

    slowest = {}
    for hedges in (0.0, 0.1):
        with model([tailed(5)], LatencyPolicy(p95=0.3, p99=3.0, hedges=hedges), in_flight=4) as (made, [server]):
            took = []
            for _ in range(300):
                began = time.monotonic()
                assert made.answer(ask(1), began + 5.0).reasons == [None]
                took.append(time.monotonic() - began)
            slowest[hedges] = float(np.quantile(took, 0.99))
            assert len(server.asked) <= 1.1 * 300 + 1
    assert slowest[0.1] <= slowest[0.0] / 3, slowest


def slowly(seconds: float) -> Behaviour:
    """A whole answer after so long."""
    return stream(chunk(TEXT), chunk(finish="stop"), USAGE, DONE, wait=seconds / 4)


def test_an_endpoint_is_not_blamed_for_what_had_no_time() -> None:
    breaker = BreakerPolicy(calls=5, wait=60)
    with model([slowly(0.3)], LatencyPolicy(hedges=0.0), breaker, in_flight=8) as (made, _):
        assert "busy" in answered(made, 100, seconds=1.0).reasons
        assert set(made.answer(ask(20), time.monotonic() - 1).reasons) == {"timeout"}
        assert answered(made, 2).reasons == [None, None]


def test_an_endpoint_that_always_loses_is_left_alone() -> None:
    breaker = BreakerPolicy(calls=5, wait=60)
    with model([hang(), said(TEXT)], LatencyPolicy(p95=0.05, p99=1.0, hedges=1.0), breaker) as (made, [dead, there]):
        for _ in range(16):
            assert answered(made).reasons == [None]
        before = len(dead.asked)
        assert answered(made, 10).reasons == [None] * 10
        assert len(dead.asked) == before
        assert len(there.asked) >= 26


def test_second_calls_do_not_pass_the_bound_of_calls_in_flight() -> None:
    now, peak = 0, 0

    async def counted(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
        nonlocal now, peak
        now, peak = now + 1, max(peak, now + 1)
        try:
            return await slowly(0.2)(server, request, body)
        finally:
            now -= 1

    with model([counted], LatencyPolicy(p95=0.02, p99=1.0, hedges=1.0), in_flight=3) as (made, _):
        assert answered(made, 12, seconds=10.0).reasons == [None] * 12
    assert peak <= 4  # the server hears of a call's end later than who began another one


def test_connections_are_used_again() -> None:
    peers = set[Any]()

    async def behaviour(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return await said(TEXT)(server, request, body)

    with model([behaviour]) as (made, _):
        for _ in range(10):
            answered(made)
    assert len(peers) <= 7  # the end of a stream may come too late now and then


def test_what_the_server_calls_itself_is_bounded() -> None:
    parts = (chunk(TEXT, model="m" * 10_000), chunk(finish="stop", model="m" * 10_000), DONE)
    with model([stream(*parts)]) as (made, _):
        [version] = answered(made).versions or []
        assert len(version) < 200


def test_nothing_is_asked_once_it_is_closed() -> None:
    with model([said(TEXT)]) as (made, [server]):
        answered(made)
        made.close()
        with pytest.raises(Unavailable):
            made.answer(ask(), time.monotonic() + 1)
        assert len(server.asked) == 1


@pytest.mark.parametrize("value", ["Bearer a\nb", "Bearer \x00"])
def test_a_key_that_no_header_can_hold_is_told_of_without_itself(value: str) -> None:
    with pytest.raises(UserError) as told:
        Endpoint("http://host/v1", {"Authorization": value})
    assert value not in str(told.value)


def test_a_packed_answer_is_not_unpacked() -> None:
    async def packed(server: Server, request: web.Request, body: dict[str, Any]) -> web.Response:
        response = web.Response(text='{"choices":[]}' * 1000, content_type="application/json")
        response.enable_compression(web.ContentCoding.gzip)
        response.headers["Accept-Encoding"] = "gzip"
        return response

    with model([packed]) as (made, _):
        assert answered(made).reasons == ["model_error"]


@pytest.mark.parametrize(
    "url", ["ftp://x/v1", "http://user:pass@host/v1", "host/v1", "http://host/v1?key=1", "http://host:99999/v1", ""]
)
def test_an_address_that_is_none_is_told_of_without_itself(url: str) -> None:
    with pytest.raises(UserError) as told:
        Endpoint(url, {})
    assert not url or url not in str(told.value)
