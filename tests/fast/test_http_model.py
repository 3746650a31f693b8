"""A model behind HTTP that does everything that a server can do wrong, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from streamproc.core.processor import Score
from streamproc.errors import UserError
from streamproc.io.answers import Answers, Source
from streamproc.io.http import HttpModel, with_environment
from streamproc.io.model import Unavailable
from tests.faulty_server import (
    SECONDS,
    Server,
    drip,
    empty,
    good,
    hang,
    html,
    huge,
    lying,
    reset,
    short,
    status,
)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


def ask(rows: int = 4) -> Score:
    columns = {"x": np.arange(rows, dtype=np.float64), "y": np.arange(rows)}
    return Score("m", columns, [str(row) for row in range(rows)])


def answered(server: Server, rows: int = 4, **more: Any) -> tuple[list[float], list[str | None]]:
    answers = Answers({"m": Source(server.model(**more), timedelta(seconds=SECONDS))})
    [answer] = asyncio.run(answers([ask(rows)]))
    return np.array(answer.values).tolist(), list(answer.reasons)


def test_a_batch_is_one_request_and_connections_stay_open(server: Server) -> None:
    own = server.model(headers={"Authorization": "Bearer t"})
    for rows in (1, 4, 3_000):
        np.testing.assert_array_equal(own.score(ask(rows).columns, rows).values, np.arange(rows) / 100)
    assert len(server.asked) == 3
    assert len(server.connections) == 1
    assert server.headers[0]["Authorization"] == "Bearer t"
    x, y = server.asked[1]["inputs"]
    assert x == {"name": "x", "shape": [4], "datatype": "FP64", "data": [0.0, 1.0, 2.0, 3.0]}
    assert y == {"name": "y", "shape": [4], "datatype": "INT64", "data": [0, 1, 2, 3]}


def test_all_inputs_may_be_one_tensor_and_the_output_has_a_name(server: Server) -> None:
    async def two(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        outputs = [
            {"name": "label", "shape": [4, 1], "datatype": "INT64", "data": [0, 0, 1, 1]},
            {"name": "chances", "shape": [4, 2], "datatype": "FP64", "data": [0.9, 0.1, 0.8, 0.2, 0.3, 0.7, 0.4, 0.6]},
            {"name": "other", "shape": [1], "datatype": "FP64", "data": [5]},
        ]
        return web.json_response({"outputs": outputs})

    server.handler = two
    assert answered(server, tensor="input-0", output="chances") == ([0.1, 0.2, 0.7, 0.6], [None] * 4)
    [tensor] = server.asked[0]["inputs"]
    assert (tensor["name"], tensor["shape"]) == ("input-0", [4, 2])
    assert tensor["data"] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert server.asked[0]["outputs"] == [{"name": "chances"}]


def test_rows_with_a_missing_input_are_not_sent(server: Server) -> None:
    columns = {"x": np.array([1.0, np.nan, 3.0]), "y": np.arange(3)}
    np.testing.assert_array_equal(server.model().score(columns, 3).values, [0.01, np.nan, 0.03])
    assert server.asked[0]["inputs"][0]["data"] == [1.0, 3.0]
    texts = {"x": np.array([True, None, False]), "y": np.array(["2026-01-01", "NaT", "2026-01-02"], "M8[us]")}
    model = HttpModel(server.url, ["x", "y"], timedelta(seconds=SECONDS))
    server.models.append(model)
    assert np.isnan(model.score(texts, 3).values).tolist() == [False, True, False]
    x, y = server.asked[-1]["inputs"]
    assert (x["datatype"], x["data"]) == ("BOOL", [True, False])
    assert (y["datatype"], y["data"][1]) == ("BYTES", "2026-01-02T00:00:00.000000")
    server.asked.clear()
    nothing = {"x": np.full(2, np.nan), "y": np.arange(2)}
    assert np.isnan(server.model().score(nothing, 2).values).all()
    assert server.asked == []


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (hang, "timeout"),
        (drip, "timeout"),
        (reset, "model_unavailable"),
        (status(500), "model_error"),
        (status(400), "model_error"),
        (status(302), "model_unavailable"),
        (status(404), "model_unavailable"),
        (status(429), "model_unavailable"),
        (status(503), "model_unavailable"),
        (html, "model_error"),
        (short, "model_error"),
        (lying, "model_error"),
        (empty, "model_error"),
    ],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_whatever_the_server_does_there_is_an_answer_in_time(server: Server, handler: Any, reason: str) -> None:
    server.handler = handler
    values, reasons = answered(server)
    assert reasons == [reason] * 4
    assert all(value is None or np.isnan(value) for value in values)
    server.handler = good  # and the next batch has its own answer, not a late one of this
    assert answered(server) == ([0.0, 0.01, 0.02, 0.03], [None] * 4)


def test_an_answer_that_is_too_large_is_not_read(server: Server) -> None:
    server.handler = huge
    with pytest.raises(ValueError, match="too large"):
        server.model(seconds=30).score(ask().columns, 4)


def test_values_that_are_no_numbers_are_no_scores_of_their_rows(server: Server) -> None:
    async def odd(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(
            text='{"outputs": [{"name": "s", "shape": [6], "data": [0.5, null, "0.5", true, NaN, Infinity]}]}',
            content_type="application/json",
        )

    server.handler = odd
    values, reasons = answered(server, rows=6)
    assert values[0] == 0.5
    assert reasons == [None, *["not_finite"] * 5]


def test_a_row_that_the_server_cannot_take_is_found(server: Server) -> None:
    async def picky(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if 77.0 in body["inputs"][0]["data"]:
            return web.Response(status=500)
        return await good(server, request, body)

    server.handler = picky
    _, reasons = answered(server, rows=500)
    assert [row for row, reason in enumerate(reasons) if reason is not None] == [77]


def test_a_server_that_is_not_there_is_not_available() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = HttpModel(f"http://127.0.0.1:{port}/v2/models/m/infer", ["x"], timedelta(seconds=SECONDS))
    answers = Answers({"m": Source(own, timedelta(seconds=SECONDS))})
    [answer] = asyncio.run(answers([ask()]))
    answers.close()
    assert set(answer.reasons) == {"model_unavailable"}


def test_a_connection_that_breaks_is_tried_once_more(server: Server) -> None:
    async def once(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (reset if len(server.asked) == 1 else good)(server, request, body)

    server.handler = once
    assert answered(server) == ([0.0, 0.01, 0.02, 0.03], [None] * 4)
    assert len(server.asked) == 2


def test_secrets_come_from_the_environment() -> None:
    assert with_environment({"A": "Bearer ${TOKEN}", "B": "x"}, {"TOKEN": "t"}) == {"A": "Bearer t", "B": "x"}
    with pytest.raises(UserError, match="TOKEN is not set"):
        with_environment({"A": "${TOKEN}"}, {})


@pytest.mark.parametrize("url", ["scores:8080", "ftp://scores/x", "http://", "http://host", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="no address"):
        HttpModel(url, ["x"], timedelta(seconds=1))


def test_a_call_that_is_under_way_when_it_closes_comes_to_an_end(server: Server) -> None:
    """A thread that waited for ever would keep its process from ending."""
    asked = threading.Event()

    async def noted(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        asked.set()
        return await hang(server, request, body)

    server.handler = noted
    model = HttpModel(server.url, ["x"], timedelta(seconds=60))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(model.score, {"x": np.ones(3)}, 3)
        assert asked.wait(10)
        model.close()
        with pytest.raises(Unavailable, match="closed"):
            call.result(10)
