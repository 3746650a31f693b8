"""Answers of a language model that are given again: to what, for how long, and never where they must not be."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.contract import Contract
from streamproc.core.llm.budget import BudgetPlan, Limit
from streamproc.core.llm.cache import key_of, partition_of, said, scope_of
from streamproc.core.llm.cache_policy import CACHE, EXACT, CachePolicy
from streamproc.core.llm.policy import CALLS, PROMPT_HASH, LlmPlan
from streamproc.core.llm.prompt import Marks
from streamproc.core.llm.rates import LimitsPlan, Rate
from streamproc.core.llm.request import (
    BUDGET_KEY,
    CANARY,
    INPUT,
    INPUT_BOUND,
    LIMIT_KEY,
    MOST_CALLS,
    MOST_TOKENS,
    SYSTEM,
    TENANT,
    USER,
    requests,
)
from streamproc.core.processor import Answer, Score
from streamproc.errors import UserError
from streamproc.io.breaker import BreakerPolicy
from streamproc.io.llm.cache import AnswerCache
from streamproc.io.llm.endpoint import Endpoint
from streamproc.io.llm.kept import FORMAT, LARGEST, Kept, MemoryStore, RedisStore, Store, packed
from streamproc.io.llm.model import LlmModel, LlmPolicy
from streamproc.io.llm.shared import Shared
from tests.fast.test_llm_model import NO_HEDGES
from tests.fast.test_llm_parts import OUTPUT, PLAN, PROMPT
from tests.llm_server import Behaviour, Server, hang, in_turn, serving, status
from tests.llm_server import said as saying
from tests.redis_server import RedisServer, is_installed

POLICY = CachePolicy(60.0)
KEEPING = replace(PLAN, cache=POLICY, pipeline="support")
GOOD = '{"score": 0.5, "confidence": 0.9, "category": "x"}'
SECONDS = 3.0
CANARIES = Marks.of(PROMPT, "0-1").canary


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if not is_installed():
        pytest.skip("no redis-server is installed")
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def ask(*texts: str, tenants: Sequence[str | None] = (), prompts: Sequence[str] = ()) -> Score:
    """A row a text."""
    count = len(texts)
    columns: dict[str, Any] = {
        SYSTEM: np.array(["be brief"] * count, object),
        USER: np.array(texts, object),
        INPUT: np.array(texts, object),
        TENANT: np.array(list(tenants) or [None] * count, object),
        CANARY: np.array([CANARIES] * count, object),
        MOST_TOKENS: np.full(count, 50),
        INPUT_BOUND: np.full(count, 30),
        PROMPT_HASH: np.array(list(prompts) or [PLAN.prompt.hash] * count, object),
    }
    return Score("llm", columns, [f"0-{row}" for row in range(count)])


def memory(most: int = 1_000, most_bytes: int = 1 << 20, seconds: float = 60.0) -> MemoryStore:
    return MemoryStore(most, most_bytes, seconds)


def model_of(server: Server, store: Store, plan: LlmPlan = KEEPING, **policy: Any) -> LlmModel:
    assert plan.cache is not None
    cache = AnswerCache(plan, plan.cache, "some-model", {}, store)
    endpoints = [Endpoint(server.url, {}, BreakerPolicy(calls=100))]
    return LlmModel(endpoints, LlmPolicy("some-model", latency=NO_HEDGES, **policy), plan, [], cache=cache)


@contextmanager
def keeping(
    behaviour: Behaviour, store: Store | None = None, plan: LlmPlan = KEEPING, **policy: Any
) -> Iterator[tuple[LlmModel, Server]]:
    with ExitStack() as stack:
        server = stack.enter_context(serving(behaviour))
        made = model_of(server, memory() if store is None else store, plan, **policy)
        stack.callback(made.close)
        yield made, server


def answered(made: LlmModel, asked: Score, seconds: float = SECONDS) -> Answer:
    return made.answer(asked, time.monotonic() + seconds)


# -- what is one question --------------------------------------------------------------------------------------------


def shown(plan: LlmPlan, **fields: list[Any]) -> list[str]:
    return (
        requests(plan, pl.DataFrame(fields), [f"0-{n}" for n in range(len(fields["subject"]))]).columns[INPUT].tolist()
    )


def test_texts_that_look_the_same_are_one_question() -> None:
    same = ["pay  me", "pay\u200b me", "pay\n\nme", "ｐａｙ me"]
    assert len(set(shown(KEEPING, subject=same, body=["b"] * 4))) == 1
    others = shown(KEEPING, subject=["pay me", "b", "Pay me", "pay me"], body=["b", "pay me", "b", None])
    assert len({*others, *shown(KEEPING, subject=same, body=["b"] * 4)}) == 4
    made = requests(KEEPING, pl.DataFrame({"subject": ["a"], "body": ["b"]}), ["0-1"])
    assert Marks.of(PROMPT, "0-1").mark not in made.columns[INPUT][0]


def test_whose_event_it_is_is_text_of_any_column() -> None:
    plan = replace(KEEPING, cache=replace(POLICY, by="tenant"))
    frame = pl.DataFrame({"subject": ["a"] * 2, "body": ["b"] * 2, "tenant": [7, None]})
    assert requests(plan, frame, ["0-1", "0-2"]).columns[TENANT].tolist() == ["7", None]
    assert "tenant" in plan.reads


def test_a_key_follows_from_everything_that_the_answer_does() -> None:
    def key(
        plan: LlmPlan = KEEPING,
        model: str = "m",
        parameters: dict[str, Any] | None = None,
        tenant: str | None = "t",
        prompt: str = "ab",
        text: str = "{}",
    ) -> bytes:
        return key_of(partition_of(scope_of(plan, model, parameters or {}), tenant, prompt), text)

    other = Contract({**OUTPUT.schema, "title": "other"})
    keys = {
        key(), key(replace(KEEPING, pipeline="other")), key(replace(KEEPING, output=other)), key(model="n"),
        key(parameters={"seed": 1}), key(tenant="u"), key(tenant=None), key(tenant="None"), key(prompt="cd"),
        key(text="[]"),
    }  # fmt: skip
    assert len(keys) == 10
    assert key() == key(parameters={})


# -- memory ----------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["put", "get", "forget"]), st.integers(0, 5), st.integers(0, 300), st.integers(0, 4)),
    max_size=60,
)


@settings(deadline=None)
@given(steps, st.integers(1, 4))
def test_memory_holds_what_a_plain_list_would(steps: list[tuple[str, int, int, int]], most: int) -> None:
    """The list has the newest used at its end; the bound in bytes is that of two large ones."""
    store, seconds, now = MemoryStore(most, 1_300, 10.0), 10.0, 0.0
    plain: list[tuple[bytes, float, Kept]] = []
    for what, name, size, later in steps:
        now += later
        key, prompt = bytes([name]), f"p{name % 2}"
        if what == "put":
            kept = Kept("x" * size, "m", prompt)
            store.put(key, kept, now)
            plain = [*(one for one in plain if one[0] != key), (key, now + seconds, kept)]
            while len(plain) > most or sum(kept.size for _, _, kept in plain) > 1_300:
                plain.pop(0)
        elif what == "get":
            found = next((one for one in plain if one[0] == key), None)
            plain = [one for one in plain if one[0] != key]
            if found is not None and found[1] > now:
                plain.append(found)
                assert store.get(key, now) == found[2]
            else:
                assert store.get(key, now) is None
        else:
            assert store.forget(prompt) == sum(one[2].prompt == prompt for one in plain)
            plain = [one for one in plain if one[2].prompt != prompt]
        assert len(store) == len(plain) <= most
        assert store.bytes == sum(kept.size for _, _, kept in plain) <= 1_300


# -- one call --------------------------------------------------------------------------------------------------------


def test_equal_rows_are_asked_about_once_and_later_ones_not_at_all() -> None:
    with keeping(saying(GOOD)) as (made, server):
        first = answered(made, ask("a", "b", "a", "a"))
        assert (first.values, first.reasons) == ([GOOD] * 4, [None] * 4)
        assert first.columns[CACHE].tolist() == [None, None, EXACT, EXACT]
        assert first.columns[CALLS].tolist() == [1, 1, 0, 0]
        again = answered(made, ask("b", "a", "c"))
        assert again.columns[CACHE].tolist() == [EXACT, EXACT, None]
        assert again.columns["output_tokens"].tolist() == [0, 0, 7]
        assert again.versions == [f"{made.version}@stub-1"] * 3
        assert len(server.asked) == 3


def test_nothing_goes_from_one_tenant_or_prompt_to_another() -> None:
    with keeping(saying(GOOD)) as (made, server):
        answered(made, ask("a", "a", "a", tenants=["t", "u", None]))
        assert len(server.asked) == 3
        for _ in range(2):
            answered(made, ask("a", "a", tenants=["t", "t"], prompts=["ab", "cd"]))
        assert len(server.asked) == 5


def test_batches_in_flight_share_a_call() -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def slowly(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
        begun.set()
        await asyncio.to_thread(go_on.wait, SECONDS)
        return await saying(GOOD)(server, request, body)

    with keeping(slowly) as (made, server):
        found = list[Answer]()
        threads = [threading.Thread(target=lambda: found.append(answered(made, ask("a")))) for _ in range(4)]
        for thread in threads:
            thread.start()
            assert begun.wait(SECONDS)
        go_on.set()
        for thread in threads:
            thread.join()
        assert [answer.values for answer in found] == [[GOOD]] * 4
        assert sum(answer.columns[CALLS][0] for answer in found) == len(server.asked) == 1


def test_where_a_call_fails_another_equal_row_is_asked_about() -> None:
    with keeping(in_turn(saying("?"), saying(GOOD))) as (made, server):
        answer = answered(made, ask("a", "a", "a"))
        assert answer.values == ["?", GOOD, GOOD]
        assert answer.columns[CACHE].tolist() == [None, None, EXACT]
        assert len(server.asked) == 2


def test_equal_rows_that_come_to_nothing_are_a_few_calls() -> None:
    with keeping(status(401)) as (made, server):
        answer = answered(made, ask(*["a"] * 20))
        assert answer.reasons == ["model_error"] * 20
        assert len(server.asked) == 3
        assert answered(made, ask("a")).reasons == ["model_error"]
        assert len(server.asked) == 4  # that it failed is not kept


def among(asked: Score, name: str, column: Any) -> Score:
    """The same with one more column."""
    return replace(asked, columns={**asked.columns, name: column})


@pytest.mark.parametrize("count", [3, 1_000])
def test_rows_without_a_budget_of_their_own_do_not_speak_for_others(count: int) -> None:
    """Lanes say that there is no call for all but the last but one, which
    is asked about for itself and for who comes after it."""
    with keeping(saying(GOOD)) as (made, server):
        answer = answered(made, among(ask(*["a"] * (count + 2)), MOST_CALLS, np.array([0] * count + [1, 0])))
        assert answer.reasons == ["budget"] * count + [None] * 2
        assert answer.columns[CACHE].tolist() == [None] * (count + 1) + [EXACT]
        assert len(server.asked) == 1
        made_cache = made._cache
        assert made_cache is not None and not made_cache._flights


def test_a_budget_of_one_key_is_none_of_another(redis: RedisServer) -> None:
    plan = replace(KEEPING, budget=BudgetPlan("tenant", Limit(90, 86_400_000_000), in_lanes=False))
    assert plan.cache is not None
    with serving(saying(GOOD)) as server:
        cache = AnswerCache(plan, plan.cache, "some-model", {}, memory())
        endpoints, there = (
            [Endpoint(server.url, {}, BreakerPolicy(calls=100))],
            Shared(redis.url, "budget-of-one:{p}", 60.0),
        )
        policy = LlmPolicy("some-model", latency=NO_HEDGES)
        made = LlmModel(endpoints, policy, plan, [], shared=there, cache=cache)
        texts = [f"text {number}" for number in range(8)]
        first = answered(made, among(ask(*texts), BUDGET_KEY, np.array(["a"] * 8, object)))
        assert "budget" in first.reasons  # it is used up
        answer = answered(made, among(ask(*["same"] * 7), BUDGET_KEY, np.array([*"aaabcde"], object)))
        assert answer.reasons == ["budget"] * 3 + [None] * 4
        made.close()


def test_a_limit_of_one_key_is_none_of_another() -> None:
    plan = replace(KEEPING, limits=LimitsPlan(None, "tenant", Rate(1, 60_000_000)))
    with keeping(saying(GOOD), plan=plan) as (made, server):
        assert answered(made, among(ask("first"), LIMIT_KEY, np.array(["a"], object))).reasons == [None]
        answer = answered(made, among(ask(*["same"] * 6), LIMIT_KEY, np.array([*"aaaabc"], object)))
        assert answer.reasons == ["rate_limited"] * 4 + [None] * 2
        assert len(server.asked) == 2


def test_who_waits_for_another_row_waits_no_longer_than_its_own_time() -> None:
    with keeping(hang()) as (made, _):
        thread = threading.Thread(target=lambda: answered(made, ask("a"), 2.0))
        thread.start()
        began = time.monotonic()
        assert answered(made, ask("a", "a"), 0.4).reasons == ["timeout"] * 2
        assert time.monotonic() - began < 1.5
        thread.join()


# -- what is not kept ------------------------------------------------------------------------------------------------

UNFIT: dict[str, Behaviour] = {
    "cut off": saying(GOOD, "length"),
    "refused": saying("", "content_filter"),
    "no JSON": saying("hello"),
    "what the schema does not let pass": saying('{"score": 7, "category": "x"}'),
    "the canary": saying(GOOD.replace('"x"', f'"{CANARIES}"')),
    "a link": saying(GOOD.replace('"x"', '"https://evil.example"')),
    "not sure enough": saying(GOOD.replace("0.9", "0.49")),
    "no word of how sure": saying('{"score": 0.5, "category": "x"}'),
    "a server that fails": status(500),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_must_not_be_given_again_is_not_kept(name: str) -> None:
    store = memory()
    with keeping(UNFIT[name], store) as (made, server):
        answered(made, ask("a"))
        before = len(server.asked)
        answered(made, ask("a"))
        assert len(server.asked) > before
    assert len(store) == 0


def test_the_least_confidence_is_what_the_file_says() -> None:
    plan = replace(KEEPING, cache=replace(POLICY, least_confidence=0.4))
    with keeping(UNFIT["not sure enough"], plan=plan) as (made, server):
        answered(made, ask("a"))
        answered(made, ask("a"))
        assert len(server.asked) == 1
    unstated = replace(KEEPING, output=Contract({"type": "object", "properties": {"score": {"type": "number"}}}))
    [found] = said(unstated, ['{"score": 1}'], ["canary"], ["be brief"], [None])
    assert found is not None and found.may_be_kept(POLICY)  # the answer has no such field


def test_the_answers_to_a_prompt_can_be_forgotten() -> None:
    store = memory()
    with keeping(saying(GOOD), store) as (made, server):
        answered(made, ask("a", "b", "c", prompts=["ab", "ab", "cd"]))
        assert len(store) == 3
        made.forget("ab")
        answered(made, ask("c", prompts=["cd"]))  # it is done before this
        assert len(store) == 1
        answered(made, ask("a", "c", prompts=["ab", "cd"]))
        assert len(server.asked) == 4


def test_what_is_kept_has_its_time() -> None:
    with keeping(saying(GOOD), memory(seconds=0.0)) as (made, server):
        answered(made, ask("a"))
        answered(made, ask("a"))
        assert len(server.asked) == 2


# -- Redis -----------------------------------------------------------------------------------------------------------


def in_redis(server: RedisServer, seconds: float = 60.0) -> RedisStore:
    return RedisStore(server.url, "streamproc:support:llm-cache:", seconds)


def names_in(server: RedisServer, count: int) -> list[bytes]:
    """The names in Redis, once there are so many: answers do not wait for their writes."""
    deadline = time.monotonic() + SECONDS
    with server.client() as client:
        while len(names := list(client.keys())) < count:
            assert time.monotonic() < deadline, names
        return names


def test_workers_share_what_is_in_redis(redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()
    with serving(saying(GOOD)) as server:
        one, two = model_of(server, in_redis(redis)), model_of(server, in_redis(redis))
        answered(one, ask("my secret", "my secret", "b"))
        names = names_in(redis, 2)
        answer = answered(two, ask("b", "my secret", "c"))
        assert answer.columns[CACHE].tolist() == [EXACT, EXACT, None]
        assert len(server.asked) == 3
        with redis.client() as client:
            assert all(0 < client.pttl(name) <= 60_000 for name in names)
        assert all(name.startswith(b"streamproc:support:llm-cache:") and b"secret" not in name for name in names)
        one.close()
        two.close()


POISON: dict[str, bytes] = {
    "nothing": b"",
    "another format": b"llm0" + packed(Kept(GOOD, "m", "p"))[len(FORMAT) :],
    "no JSON": FORMAT + b"[[[",
    "another shape": FORMAT + b'{"text": "x"}',
    "another type": FORMAT + b'[1, "m", "p"]',
    "no text": b"\xff\xfe\x00",
    "too much": packed(Kept(GOOD + " " * LARGEST, "m", "p")),
    "what no answer may be": packed(Kept(GOOD.replace('"x"', '"https://evil.example"'), "m", "p")),
    "what the schema does not let pass": packed(Kept('{"score": 9}', "m", "p")),
    "not sure enough": packed(Kept(GOOD.replace("0.9", "0.1"), "m", "p")),
}


@pytest.mark.parametrize("name", POISON)
def test_what_somebody_else_put_there_is_no_answer(redis: RedisServer, name: str) -> None:
    with redis.client() as client, keeping(saying(GOOD), in_redis(redis)) as (made, server):
        client.flushall()
        answered(made, ask("a"))
        [key] = names_in(redis, 1)
        client.set(key, POISON[name])
        answer = answered(made, ask("a"))
        assert (answer.values, answer.columns[CACHE].tolist()) == ([GOOD], [None])
        assert len(server.asked) == 2


def test_what_is_no_text_there_is_no_answer(redis: RedisServer) -> None:
    with redis.client() as client, keeping(saying(GOOD), in_redis(redis)) as (made, server):
        client.flushall()
        answered(made, ask("a"))
        [key] = names_in(redis, 1)
        client.delete(key)
        client.rpush(key, "x")
        assert answered(made, ask("a", "b")).values == [GOOD] * 2
        assert len(server.asked) == 3


def test_a_redis_that_hangs_or_is_gone_is_one_that_is_empty(tmp_path: Path) -> None:
    if not is_installed():
        pytest.skip("no redis-server is installed")
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(tmp_path))
        store = in_redis(server)
        made, asked = stack.enter_context(keeping(saying(GOOD), store))
        answered(made, ask("a"))
        names_in(server, 1)
        server.pause()
        for number in range(8):
            began = time.monotonic()
            assert answered(made, ask(f"a{number}"), 1.0).values == [GOOD]
            assert time.monotonic() - began < 0.9
        assert store._breaker.state == "open"
        assert answered(made, ask("b"), 1.0).values == [GOOD]
        server.go_on()
        server.kill()
        assert answered(made, ask("c")).values == [GOOD]
        assert len(asked.asked) == 11


def test_an_address_that_is_none_is_told_of_without_itself() -> None:
    with pytest.raises(UserError) as told:
        RedisStore("http://me:hush@host", "p:", 1.0)
    assert "hush" not in str(told.value)


def test_an_answer_is_known_while_it_is_on_its_way_to_redis(redis: RedisServer) -> None:
    with keeping(saying(GOOD), in_redis(redis)) as (made, server):
        answered(made, ask("warm"))
        redis.pause()
        try:
            answered(made, ask("fresh"))
            assert answered(made, ask("fresh")).values == [GOOD]
            assert len(server.asked) == 2
        finally:
            redis.go_on()


def test_rows_are_json_by_field() -> None:
    [text] = shown(KEEPING, subject=["s"], body=["b"])
    assert orjson.loads(text) == {"subject": "s", "body": "b"}
