"""Online stores: a real Redis that hangs, dies and comes back, and Python functions; what a batch is given of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from streamproc.core.processor import Answer, Lookup
from streamproc.errors import PipelineError, UserError
from streamproc.io.breaker import BreakerPolicy
from streamproc.io.cache import Cache, CachePolicy
from streamproc.io.redis import RedisRows
from streamproc.io.store import Store, StorePolicy
from streamproc.offline import Offline, batch_of
from streamproc.pipeline import open_pipeline
from tests.fast.lookup_plans import event, write
from tests.fast.plans import sent
from tests.redis_server import PASSWORD, RedisServer, is_installed

FIELDS: Mapping[str, pl.DataType] = {"score": pl.Float64(), "tier": pl.String()}
SECONDS = 1.0
needs_redis = pytest.mark.skipif(not is_installed(), reason="no redis-server is installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if not is_installed():
        pytest.skip("no redis-server is installed")
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def store_of(server: RedisServer, *, is_hash: bool = True, seconds: float = SECONDS, **policy: Any) -> Store:
    rows = RedisRows(server.url, FIELDS, "risk:{}", is_hash=is_hash, connections=8)
    return Store("risk", rows, StorePolicy(seconds, **policy))


def ask(*keys: str) -> Lookup:
    return Lookup("risk", [key.encode() for key in keys], tuple(FIELDS))


def asked(store: Store, *asks: Lookup) -> list[Answer]:
    """The answers, one after another on one event loop."""

    async def all_of_them() -> list[Answer]:
        try:
            return [await store(one) for one in asks]
        finally:
            await store.disconnect()

    return asyncio.run(all_of_them())


@needs_redis
def test_rows_are_hashes_or_json(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()
        client.hset("risk:a", mapping={"score": "0.25", "tier": "gold", "more": "x"})
        client.hset("risk:b", mapping={"tier": "7"})
        client.hset("risk:c", mapping={"other": "x"})
        client.hset("risk:d", mapping={"score": "much"})
        client.set("risk:e", "text")
        client.set("risk:f", orjson.dumps({"score": 2, "tier": None}))
    [answer] = asked(store_of(server), ask("a", "b", "c", "d", "e", "nobody"))
    assert answer.values == [(0.25, "gold"), (None, "7"), None, ("much", None), None, None]
    assert answer.reasons == [None, None, "no_such_key", None, "wrong_type", "no_such_key"]
    [answer] = asked(store_of(server, is_hash=False), ask("f", "e", "nobody"))
    assert answer.values == [(2, None), None, None]
    assert answer.reasons == [None, "wrong_type", "no_such_key"]


@needs_redis
def test_a_batch_is_one_request_and_what_is_kept_is_not_asked_for(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()
        client.set("risk:a", '{"score": 1}')
        before = client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
        store = store_of(server, is_hash=False, cache=CachePolicy(2, 60.0))
        first, second, third = asked(store, ask("a", "x"), ask("x", "a"), ask("a", "y"))
        assert [first.values, second.values] == [[(1, None), None], [None, (1, None)]]
        assert third.values == [(1, None), None]
        assert client.info("commandstats")["cmdstat_mget"]["calls"] == before + 2


@needs_redis
def test_a_store_that_hangs_costs_its_time_and_then_nothing(server: RedisServer) -> None:
    store = store_of(server, seconds=0.2, breaker=BreakerPolicy(0.5, 2, 0.5))

    async def story() -> None:
        assert (await store(ask("a"))).reasons == ["no_such_key"]
        server.pause()
        began = time.monotonic()
        reasons = [(await store(ask("a"))).reasons[0] for _ in range(4)]
        assert reasons == ["timeout", *["breaker_open"] * 3]
        assert time.monotonic() - began < 2.0
        assert store.state == "open"
        server.go_on()
        deadline = time.monotonic() + 20
        while (await store(ask("a"))).reasons != ["no_such_key"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert store.state == "closed"
        await store.disconnect()

    with server.client() as client:
        client.flushall()
    try:
        asyncio.run(story())
    finally:
        server.go_on()


def test_a_store_that_is_gone_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not is_installed():
        pytest.skip("no redis-server is installed")
    caplog.set_level(logging.WARNING)
    with RedisServer(tmp_path) as server:
        store = store_of(server)

        async def story() -> None:
            assert (await store(ask("a"))).reasons == ["no_such_key"]
            server.kill()
            assert [(await store(ask("secret-key"))).reasons for _ in range(3)] == [["unavailable"]] * 3
            server.start()
            with server.client() as client:
                client.hset("risk:a", "score", "3")
            assert (await store(ask("a"))).values == [(3.0, None)]
            await store.disconnect()

        asyncio.run(story())
    assert len(caplog.records) == 1, "once, not every time"
    assert PASSWORD not in caplog.text and "secret-key" not in caplog.text


@needs_redis
def test_more_calls_than_may_be_under_way_have_no_value(server: RedisServer) -> None:
    store = store_of(server, in_flight=2)

    async def story() -> list[str | None]:
        answers = await asyncio.gather(*(store(ask(str(n))) for n in range(4)))
        await store.disconnect()
        return [answer.reasons[0] for answer in answers]

    assert asyncio.run(story()) == ["no_such_key", "no_such_key", "busy", "busy"]


@needs_redis
def test_a_wrong_password_is_told_of_without_it(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    rows = RedisRows(server.url.replace(PASSWORD, "not-the-password"), FIELDS, "{}", is_hash=True, connections=1)
    [answer] = asked(Store("risk", rows, StorePolicy(SECONDS)), ask("a"))
    assert answer.reasons == ["unavailable"]
    assert "not-the-password" not in caplog.text


@pytest.mark.parametrize("url", ["http://x", "redis://", "redis://:pass word@x", "redis://:hidden@x:port/0"])
def test_what_is_no_address_is_refused_without_a_word_of_it(url: str) -> None:
    try:
        RedisRows(url, FIELDS, "{}", is_hash=True, connections=1)
    except UserError as error:
        assert "pass" not in str(error) and "hidden" not in str(error)
    else:
        assert url == "redis://"  # the client's own default


def test_a_cache_forgets_the_oldest_and_what_is_too_old() -> None:
    cache = Cache(CachePolicy(2, 10.0))
    cache.keep({b"a": (1,), b"b": None}, 0.0)
    cache.keep({b"a": (2,)}, 5.0)
    assert cache.known([b"a", b"b", b"c"], 9.0) == {b"a": (2,), b"b": None}
    assert cache.known([b"a", b"b"], 10.0) == {b"a": (2,)}
    cache.keep({b"c": (3,)}, 6.0)
    assert len(cache) == 2
    assert cache.known([b"a", b"b", b"c"], 6.0) == {b"a": (2,), b"c": (3,)}


GEO = """
import numpy as np

def lookup(keys):
    if "crash" in keys:
        import os
        os._exit(3)
    if "fail" in keys:
        raise ValueError("quotes " + keys[0])
    return {
        "country": [None if key == "x" else key.upper() for key in keys],
        "distance": np.array([float("nan") if key == "x" else len(key) for key in keys]),
    }

def numbers(keys):
    assert keys.dtype.kind == "i"
    return {"country": ["c"] * len(keys), "distance": keys * 2, "found": keys > 5}
"""
PIPELINE = """
pipeline: looks
events: {topic: looks.events, schema: event.schema.json, key: id, time: time}
stores: {geo: {python: "geo_store:lookup", key: customer, timeout: 20s, types: {country: text, distance: number}}}
features:
  country: {lookup: geo, field: country, default: "?"}
  distance: {lookup: geo, field: distance}
rules: [{id: far, when: distance > 2, decide: review}, {id: rest, decide: approve}]
actions: {approve: looks.approvals}
tests:
  - {name: near, event: {id: 1}, stores: {geo: {distance: 1, country: de}}, expect: {decision: approve}}
  - {name: unknown, event: {id: 1}, expect: {decision: review, undecided: [far], features: {country: "?"}}}
"""


def decided(file: Path, *values: bytes) -> list[Any]:
    pipeline = open_pipeline(file)
    try:
        effects = Offline(pipeline.processor, pipeline.answers.now).process(batch_of("looks.events", values))
        return [*sent(effects, "looks.decisions"), dict(effects.counts)]
    finally:
        pipeline.answers.close()


def test_a_python_function_is_a_store(tmp_path: Path) -> None:
    (tmp_path / "geo_store.py").write_text(GEO)
    file = write(tmp_path, PIPELINE)
    first, second, third, counts = decided(file, event(1, "abc"), event(2, "x"), event(3, "de"))
    names = ("country", "country_missing", "distance")
    shown = [tuple(one["features"][name] for name in names) for one in (first, second, third)]
    assert shown == [("ABC", False, 3.0), ("?", True, None), ("DE", False, 2.0)]
    assert len(first["lookups"]["geo"]) == 32
    assert counts[("missing_lookups", "geo/no_such_key")] == 1


def test_keys_that_are_numbers_are_given_as_such(tmp_path: Path) -> None:
    (tmp_path / "geo_store.py").write_text(GEO)
    file = write(tmp_path, PIPELINE, "", ("geo_store:lookup", "geo_store:numbers"), ("key: customer", "key: card"))
    first, second, _ = decided(file, event(1, None, card=5), event(2, None, card=6))
    assert (first["features"]["distance"], second["features"]["distance"]) == (None, 12.0)


@pytest.mark.parametrize(("who", "reason"), [("crash", "unavailable"), ("fail", "error")])
def test_a_function_that_fails_stops_nothing(who: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "geo_store.py").write_text(GEO)
    one, counts = decided(write(tmp_path, PIPELINE), event(1, who))
    assert one["features"]["country"] == "?"
    assert counts[("missing_lookups", f"geo/{reason}")] == 1


FOUND = """
def lookup(keys):
    return {"country": ["NL"] * len(keys), "distance": [1.0] * len(keys), "found": FOUND}
"""


@pytest.mark.parametrize("found", ["[1]", "[None]", "['yes']", "[float('nan')]"])
def test_what_says_whether_a_key_is_there_is_true_or_false(
    found: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "geo_store.py").write_text(FOUND.replace("FOUND", found))
    file = write(tmp_path, PIPELINE)
    one, counts = decided(file, event(1, "a"))
    assert one["features"]["country_missing"]
    assert counts[("missing_lookups", "geo/error")] == 1
    assert "its column found is not of true and false alone" in caplog.text


def test_a_function_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "geo_store.py").write_text("")
    with pytest.raises(UserError, match="the store geo: 'geo_store' has no function 'lookup'"):
        open_pipeline(write(tmp_path, PIPELINE))


def test_an_address_with_a_secret_is_never_shown(tmp_path: Path) -> None:
    stores = 'stores: {geo: {redis: "http://:hidden@x", key: customer, types: {country: text, distance: number}}}'
    text = "\n".join(stores if line.startswith("stores:") else line for line in PIPELINE.splitlines())
    with pytest.raises(PipelineError) as caught:
        open_pipeline(write(tmp_path, text))
    assert "no address of a Redis" in str(caught.value)
    assert "hidden" not in str(caught.value)
    variable = text.replace("http://:hidden@x", "redis://:${NOT_SET_ANYWHERE}@x")
    with pytest.raises(UserError, match="NOT_SET_ANYWHERE is not set"):
        open_pipeline(write(tmp_path, variable))
    assert open_pipeline(write(tmp_path, variable), masked=False).answers.states() == {}
