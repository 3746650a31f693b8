"""What the door does not take, and from whom: keys, rates, bounds, slow callers, TLS."""

from __future__ import annotations

import hashlib
import http.client
import select
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import trustme

from tests.kafka import car_loan
from tests.kafka.car_loan import Example
from tests.kafka.doors import JSON, LINES, Door, door

ROWS = [value or b"" for _, value in car_loan.events(100, damaged=False)]
LIMITS = "serve: {timeout: 1s, event: 20000, rate: 500 per 1m, requests: 5}\n"
KEYS = {"ada": "ada-s3cret", "bob": "bob-s3cret", "eve": "eve-s3cret"}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


@pytest.fixture(scope="module")
def served(connection: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Example, Door]]:
    """A door with keys and narrow limits, its worker, and what people and others say."""
    made = car_loan.make(connection, partitions=2, changes=[("actions:\n", LIMITS + "actions:\n")])
    file = tmp_path_factory.mktemp("keys") / "keys"
    scopes = {"ada": "", "bob": " decisions", "eve": " events"}
    hashes = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
    file.write_text("".join(f"{name} {digest}{scopes[name]}\n" for name, digest in hashes.items()))
    with car_loan.worker(made), door(made, "--keys", str(file)) as opened:
        assert opened.decide(ROWS[0], **bearer("ada")).status == 200
        yield made, opened


def test_without_a_key_only_what_everybody_may_know_is_told(served: tuple[Example, Door]) -> None:
    _, opened = served
    assert opened.decide(ROWS[1]).status == 401
    assert opened.decide(ROWS[1], Authorization="Bearer wrong").status == 401
    assert opened.call("GET", "/v1/decisions/stream").status == 401
    assert opened.call("GET", "/metrics").status == 401
    for path in ("/healthz", "/readyz", "/openapi.json", "/"):
        assert opened.call("GET", path).status == 200
    assert opened.call("GET", "/openapi.json").json["security"] == [{"key": []}]
    refused = opened.decide(ROWS[1])
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert refused.json["type"] == "urn:streamproc:problem:unauthorized"


def test_a_key_does_what_it_is_for(served: tuple[Example, Door]) -> None:
    _, opened = served
    assert opened.decide(ROWS[1], **bearer("bob")).status == 403
    assert opened.call("GET", "/v1/decisions?event=none", headers=bearer("bob")).status == 404
    assert opened.call("GET", "/v1/decisions?event=none", headers=bearer("eve")).status == 403
    assert opened.call("GET", "/metrics", headers=bearer("ada")).status == 200
    assert opened.call("GET", "/metrics", headers={"X-API-Key": KEYS["ada"]}).status == 200


def test_a_caller_sends_what_it_may_and_others_are_not_kept(served: tuple[Example, Door]) -> None:
    _, opened = served
    statuses = [opened.events(*[ROWS[2]] * 400, **bearer("eve")).status for _ in range(3)]
    assert statuses[0] == 202 and statuses[-1] == 429
    refused = opened.events(ROWS[2], ROWS[3], **bearer("eve"))
    if refused.status == 429:
        assert int(refused.headers["Retry-After"]) >= 1
    assert opened.decide(ROWS[4], **bearer("ada")).status == 200


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x" * 20_001, JSON, 413),
        (b'{"id":' * 300, JSON, 422),
        (b"[" * 10_000, JSON, 422),
        (b"", JSON, 422),
        (b"\xff\xfe", JSON, 422),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {}, 415),
        (b"{}", {**JSON, "Content-Encoding": "gzip"}, 415),
        (b"{}", {**JSON, "Idempotency-Key": ""}, 400),
    ],
)
def test_what_is_out_of_bounds_is_refused(
    served: tuple[Example, Door], body: bytes, headers: dict[str, str], status: int
) -> None:
    _, opened = served
    answer = opened.call("POST", "/v1/events", body, headers | bearer("ada"))
    assert answer.status == status
    assert answer.json["status"] == status and answer.headers["Content-Type"] == "application/problem+json"


def test_an_event_nested_deeply_and_a_line_too_long_are_told(served: tuple[Example, Door]) -> None:
    _, opened = served
    deep = b'{"id":' + b"[" * 260 + b"]" * 260 + b"}"
    answer = opened.events(deep, b"x" * 50_000, ROWS[5], **bearer("ada"))
    assert answer.status == 422 and answer.json["taken"] == 1
    assert [one["reason"] for one in answer.json["errors"]] == ["nested_too_deeply", "too_large"]


@pytest.mark.parametrize("query", ["deadline=0ms", "deadline=1h", "deadline=soon", "deadline=-1s", "deadline="])
def test_a_deadline_that_is_none_is_refused(served: tuple[Example, Door], query: str) -> None:
    _, opened = served
    assert opened.call("POST", f"/v1/decide?{query}", ROWS[6], JSON | bearer("ada")).status == 400


def test_methods_and_paths_that_there_are_not(served: tuple[Example, Door]) -> None:
    _, opened = served
    for query in ("answer=none", "answer=", "answer=summary&answer=summary"):
        assert opened.call("POST", f"/v1/events?{query}", ROWS[6], JSON | bearer("ada")).status == 400
    assert opened.call("GET", "/v1/decide").status == 405
    assert opened.call("DELETE", "/v1/events").headers["Allow"] == "POST"
    assert opened.call("GET", "/v2").json["type"] == "urn:streamproc:problem:not-found"
    assert opened.call("GET", "/v1/decisions/" + "x" * 500, headers=bearer("ada")).status == 404
    assert opened.call("GET", "/v1/decisions/99-" + "0" * 24, headers=bearer("ada")).status == 404


def raw(opened: Door, head: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", opened.port), timeout=20)
    connection.sendall(f"{head}\r\nHost: door\r\nAuthorization: Bearer {KEYS['ada']}\r\n".encode())
    return connection


def test_callers_who_stop_in_the_middle_are_left_and_hold_no_place(served: tuple[Example, Door]) -> None:
    _, opened = served
    head = "POST /v1/events HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 5000"
    silent = [raw(opened, head) for _ in range(5)]
    for connection in silent:
        connection.sendall(b"\r\n" + b"{" * 10)
    until, busy = time.monotonic() + 10, False
    while not busy and time.monotonic() < until:
        busy = opened.decide(ROWS[7], **bearer("ada")).status == 429
    assert busy, "five requests at once are all that is allowed"
    assert all(b"408" in connection.recv(4096) for connection in silent)
    assert opened.decide(ROWS[7], **bearer("ada")).status == 200
    for connection in silent:
        connection.close()


def test_callers_who_drip_are_left_and_hold_no_place(served: tuple[Example, Door]) -> None:
    _, opened = served
    head = "POST /v1/events HTTP/1.1\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked"
    dripping = [raw(opened, head) for _ in range(5)]
    for connection in dripping:
        connection.sendall(b"\r\n")
    until, answers, busy = time.monotonic() + 60, list[bytes](), False
    while dripping:
        assert time.monotonic() < until, "who sends a byte now and then keeps a place"
        for connection in tuple(dripping):
            if select.select([connection], [], [], 0)[0]:
                answers.append(connection.recv(4096))
                dripping.remove(connection)
                connection.close()
            else:
                connection.sendall(b"1\r\n \r\n")  # a blank line, if it ever ends
        busy = busy or opened.decide(ROWS[7], **bearer("ada")).status == 429
        time.sleep(0.05)
    assert busy and len(answers) == 5
    assert all(b" 408 " in answer and b"more slowly than" in answer for answer in answers)
    assert opened.decide(ROWS[7], **bearer("ada")).status == 200


def test_bodies_that_are_being_read_are_bounded_together(connection: Any) -> None:
    few = [("actions:\n", "serve: {timeout: 2s, event: 50000, bytes: 200000}\nactions:\n")]
    made = car_loan.make(connection, partitions=1, changes=few)
    car_loan.command(made, "topics", str(made.file), "--create")
    with door(made) as opened:
        head = "POST /v1/events HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 49000"
        halves = [raw(opened, head) for _ in range(8)]
        for half in halves:
            half.sendall(b"\r\n" + b"{" + b" " * 45_000)
        answers = [half.recv(100) for half in halves]
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 408", b"HTTP/1.1 429"}
        assert sum(b" 408 " in answer for answer in answers) <= 4
        assert opened.events(ROWS[0]).status == 202
        for half in halves:
            half.close()


def test_connections_that_say_nothing_take_no_memory_to_speak_of(served: tuple[Example, Door]) -> None:
    _, opened = served
    process = psutil.Process(opened.process.pid)
    before = process.memory_info().rss
    silent = [socket.create_connection(("127.0.0.1", opened.port)) for _ in range(500)]
    halves = [raw(opened, "POST /v1/events HTTP/1.1\r\nContent-Type: application/json") for _ in range(100)]
    assert opened.decide(ROWS[8], **bearer("ada")).status == 200
    assert process.memory_info().rss - before < 40 << 20
    for connection in (*silent, *halves):
        connection.close()


def test_a_body_of_any_length_takes_no_memory_to_speak_of(connection: Any) -> None:
    wide = [("actions:\n", "serve: {timeout: 20s}\nactions:\n")]
    made = car_loan.make(connection, partitions=2, changes=wide)
    car_loan.command(made, "topics", str(made.file), "--create")
    with door(made) as opened:
        process = psutil.Process(opened.process.pid)
        opened.events(*ROWS * 20, query="?answer=summary")
        before, most = process.memory_info().rss, 0

        def body() -> Iterator[bytes]:
            nonlocal most
            chunk = b"\n".join(ROWS) + b"\n"
            for _ in range(600):
                yield chunk
                most = max(most, process.memory_info().rss)

        answer = opened.call("POST", "/v1/events?answer=summary", body(), LINES)
    assert answer.json == {"taken": 60_000, "refused": 0}
    assert most - before < 60 << 20


def events_of(response: http.client.HTTPResponse) -> Iterator[Any]:
    """The decisions of a stream of server-sent events."""
    for line in response:
        if line.startswith(b"data: "):
            yield orjson.loads(line.removeprefix(b"data: "))


def test_decisions_are_followed_as_they_come(served: tuple[Example, Door]) -> None:
    _, opened = served
    all_of_them, of_key = opened.connect(), opened.connect()
    key = orjson.loads(ROWS[11])["id"]
    for connection, path in ((all_of_them, "/v1/decisions/stream"), (of_key, f"/v1/decisions/stream?key={key}")):
        connection.request("GET", path, headers=bearer("bob"))
    everything, own = all_of_them.getresponse(), of_key.getresponse()
    assert everything.headers["Content-Type"] == "text/event-stream"
    assert everything.readline().startswith(b":") and own.readline().startswith(b":")
    decided = [opened.decide(ROWS[number], **bearer("ada")).json for number in (10, 11, 12)]
    assert next(events_of(own)) == decided[1]
    following = events_of(everything)
    assert [next(following) for _ in range(3)] == decided
    all_of_them.close()
    of_key.close()


def test_a_caller_who_follows_too_slowly_is_dropped(connection: Any) -> None:
    made = car_loan.make(connection, partitions=2, changes=[("actions:\n", "serve: {timeout: 3s}\nactions:\n")])
    rows = car_loan.events(8_000, damaged=False)
    with car_loan.worker(made), door(made) as opened:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", opened.port))
            slow.sendall(b"GET /v1/decisions/stream HTTP/1.1\r\nHost: door\r\n\r\n")
            assert b"200 OK" in slow.recv(1024)
            car_loan.produce(connection, made.topic("events"), rows)
            car_loan.wait_for_results(made, len(rows))
            until = time.monotonic() + 20
            while b"streamproc_door_streams 0.0" not in opened.call("GET", "/metrics").body:
                assert time.monotonic() < until, "the slow caller is still there"
                time.sleep(0.1)
        assert opened.decide(ROWS[0]).status == 200


def test_events_are_refused_while_the_lanes_are_behind(connection: Any) -> None:
    made = car_loan.make(connection, partitions=2, changes=[("actions:\n", "serve: {max_lag: 1s}\nactions:\n")])
    car_loan.command(made, "topics", str(made.file), "--create")
    with door(made) as opened:
        assert opened.decide(ROWS[0], "100ms").status == 202
        until, answer = time.monotonic() + 15, opened.decide(ROWS[1], "100ms")
        while answer.status != 503 and time.monotonic() < until:
            answer = opened.decide(ROWS[1], "100ms", Idempotency_Key="the same")
        assert answer.status == 503 and answer.json["type"] == "urn:streamproc:problem:behind"
        assert int(answer.headers["Retry-After"]) > 0
        assert opened.call("GET", "/readyz").status == 503
        with car_loan.worker(made):
            until = time.monotonic() + 60
            while (answer := opened.decide(ROWS[2], "10s")).status == 503:
                assert time.monotonic() < until
                time.sleep(0.1)
            assert answer.status == 200


def test_tls_and_certificates_of_callers(connection: Any, tmp_path: Path) -> None:
    made = car_loan.make(connection, partitions=1)
    car_loan.command(made, "topics", str(made.file), "--create")
    ca, others = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "door.pem")

    def context(issuer: trustme.CA | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        if issuer is not None:
            issuer.issue_cert("caller@x.org", common_name="till-7").configure_cert(made)
        return made

    options = ("--tls-certificate", str(tmp_path / "door.pem"), "--client-ca", str(tmp_path / "ca.pem"))
    with door(made, *options, "--host", "0.0.0.0", context=context(ca)) as opened:
        assert opened.decide(ROWS[0], "50ms").status == 202
        for bad in (context(None), context(others)):
            opened.context = bad
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                opened.decide(ROWS[0], "50ms")
        opened.context = context(ca)
    [mark] = made.read("unseen")
    assert orjson.loads(mark.value)["caller"] == "till-7"


def test_no_payload_is_logged(served: tuple[Example, Door]) -> None:
    made, opened = served
    secret = orjson.dumps({**orjson.loads(ROWS[13]), "id": 987_654_321_987})
    assert opened.decide(secret, **bearer("ada")).status == 200
    opened.decide(b'{"id": 987654321987', **bearer("ada"))
    with raw(opened, "GET /v1/decisions HTTP/1.1\r\nX-Broken: 987654321987\x00") as broken:
        broken.sendall(b"\r\n")
        assert b" 400 " in broken.recv(4096)
    log = (made.file.parent / "door.log").read_text()
    assert "987654321987" not in log and "s3cret" not in log
