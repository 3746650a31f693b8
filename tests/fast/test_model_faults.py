"""Whatever a model server does: the deadline is kept, and decisions say by whom they were made and why."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web

from streamproc.core.decide import DecideProcessor
from streamproc.core.plan import ModelPlan
from streamproc.core.processor import NOTHING_SEEN, Answer, Ask, Score
from streamproc.core.state import Tables
from streamproc.io.answers import Answers, Source
from streamproc.io.breaker import BreakerPolicy
from streamproc.io.model import Scores
from streamproc.offline import EPOCH, batch_of
from streamproc.pipeline import open_pipeline
from tests.fast.plans import TOPIC, decisions, make_plan
from tests.faulty_server import FAULTS, SECONDS, Handler, Server, good, partial, reply, scores_of

SLACK = 0.5
"""For a machine that is busy."""
PATIENCE = 30.0
CAUSES = {"model_unavailable": "error", "model_error": "error", "not_finite": "no_score", "timeout": "timeout"}
ROWS = 8


class Constant:
    """A model that always answers, at once."""

    version = "steady"

    def score(self, columns: Any, rows: int, deadline: float = 0) -> Scores:
        return Scores(np.full(rows, 0.75))


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


async def process(plan: Any, answers: Answers, rows: int = ROWS) -> list[dict[str, Any]]:
    """The decisions of a batch, its asks answered as a worker does it."""
    values = [orjson.dumps({"id": row, "count": row, "amount": float(row)}) for row in range(rows)]
    steps = DecideProcessor.of(plan).process(batch_of(TOPIC, values), Tables(()), NOTHING_SEEN, EPOCH)
    given: list[Answer] | None = None
    while True:
        try:
            asks: Sequence[Ask] = next(steps) if given is None else steps.send(given)
        except StopIteration as stop:
            return decisions(stop.value)
        given = await answers([_renamed(ask) for ask in asks])


def _renamed(ask: Ask) -> Ask:
    """The server's model has the inputs x and y."""
    assert isinstance(ask, Score)
    return replace(ask, columns={"x": ask.columns["count"], "y": ask.columns["amount"]})


def plan_of(*stand_ins: str, shadows: Sequence[str] = ()) -> Any:
    return make_plan(
        [("low", "score < 0.01", "decline"), ("rest", None, "approve")],
        inputs=["count", "amount"],
        fallback=[("people", None, "review")],
        stand_ins=stand_ins,
        shadows=shadows,
    )


def sources(server: Server, **more: Any) -> dict[str, Source]:
    patient = BreakerPolicy(calls=1_000)
    own = {"m": Source(server.model(), timedelta(seconds=SECONDS), patient)}
    return own | {name: Source(model, timedelta(seconds=SECONDS), patient) for name, model in more.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_deadline_is_kept_and_the_chain_decides(server: Server, fault: str) -> None:
    server.handler, reason = FAULTS[fault]
    answers = Answers(sources(server))
    began = time.monotonic()
    found = asyncio.run(process(plan_of(), answers))
    assert time.monotonic() - began < SECONDS + SLACK
    reasons = {one["score_reason"] for one in found}
    assert reasons - {"timeout"} == {reason} - {"timeout"}  # the search for bad rows may take all of the time
    assert {(one["tier"], one["why"]) for one in found} == {("fallback:people", "no_score")}
    assert {one["fallback_reason"] for one in found} == {CAUSES[one] for one in reasons}
    server.handler = good  # and the next batch has its own answer, not a late one of this
    found = asyncio.run(process(plan_of(), answers))
    assert [one["score"] for one in found] == [row / 100 for row in range(ROWS)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_stand_in_scores_within_the_sum_of_the_times(server: Server, fault: str) -> None:
    server.handler, reason = FAULTS[fault]
    answers = Answers(sources(server, steady=Constant()))
    began = time.monotonic()
    found = asyncio.run(process(plan_of("steady"), answers))
    assert time.monotonic() - began < 2 * SECONDS + SLACK
    assert {(one["tier"], one["scored_by"], one["model"], one["score"]) for one in found} == {
        ("stand-in:steady", "steady", "steady", 0.75)
    }
    causes = {one["fallback_reason"] for one in found}
    assert causes - {"timeout"} == {CAUSES[reason]} - {"timeout"}  # the search for bad rows may take all of the time


def test_a_version_that_is_no_text_ends_nothing(server: Server) -> None:
    """Half of a surrogate pair is JSON that Python reads, and nothing that can be written again."""

    async def odd(server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return reply(scores_of(body), [ROWS], model_version="7\ud800" + "x" * 1_000)

    server.handler = odd
    found = asyncio.run(process(plan_of(), Answers(sources(server))))
    assert {one["tier"] for one in found} == {"automatic"}
    [model] = {one["model"] for one in found}
    assert model.partition("@")[2] == "7?" + "x" * 98


def test_only_rows_without_a_score_are_the_stand_ins(server: Server) -> None:
    server.handler = partial
    found = asyncio.run(process(plan_of("steady"), Answers(sources(server, steady=Constant()))))
    assert [one["scored_by"] for one in found] == ["steady", "m"] * (ROWS // 2)
    assert len({one["model"] for one in found}) == 2


@pytest.mark.parametrize("fault", ["hang", "drip", "reset", "NaN"])
def test_a_faulty_shadow_costs_no_more_than_its_time(server: Server, fault: str) -> None:
    server.handler, reason = FAULTS[fault]
    own = sources(server)
    answers = Answers({"m": Source(Constant(), timedelta(seconds=SECONDS)), "next": own["m"]})
    began = time.monotonic()
    found = asyncio.run(process(plan_of(shadows=["next"]), answers))
    assert time.monotonic() - began < SECONDS + SLACK
    assert {(one["tier"], one["score"]) for one in found} == {("automatic", 0.75)}
    assert {one["shadows"]["next"]["reason"] for one in found} == {reason}


def test_calls_that_hang_do_not_keep_other_models_from_being_asked(server: Server) -> None:
    server.handler, _ = FAULTS["hang"]
    answers = Answers(sources(server, steady=Constant()))

    async def both() -> list[Any]:
        hanging = [asyncio.create_task(process(plan_of(), answers)) for _ in range(20)]
        await asyncio.sleep(0)
        other = replace(plan_of(), model=ModelPlan("steady", ("count", "amount"), "steady"))
        began = time.monotonic()
        decided = await process(other, answers)
        return [time.monotonic() - began, decided, await asyncio.gather(*hanging)]

    seconds, decided, hung = asyncio.run(both())
    assert seconds < SECONDS
    assert {one["tier"] for one in decided} == {"automatic"}
    reasons = [one["score_reason"] for found in hung for one in found]
    assert (reasons.count("timeout"), reasons.count("busy")) == (8 * ROWS, 12 * ROWS)
    assert {one["fallback_reason"] for found in hung for one in found} == {"timeout", "no_score"}


def test_an_open_breaker_is_visible_and_costs_no_time(server: Server) -> None:
    server.handler, _ = FAULTS["hang"]
    policy = BreakerPolicy(calls=1, wait=60.0)
    answers = Answers({"m": Source(server.model(), timedelta(seconds=SECONDS), policy)})

    async def twice() -> list[Any]:
        await process(plan_of(), answers)
        began = time.monotonic()
        return [await process(plan_of(), answers), time.monotonic() - began]

    found, seconds = asyncio.run(twice())
    assert seconds < SECONDS / 2
    assert {(one["score_reason"], one["fallback_reason"]) for one in found} == {("breaker_open", "breaker_open")}
    assert answers.states() == {"m": "open"}


class Held:
    """A handler that holds each request until somebody lets it go on, as another one says."""

    def __init__(self, *then: Handler) -> None:
        self._then = then
        self._came = [threading.Event() for _ in then]
        self._gates = [threading.Event() for _ in then]

    async def __call__(self, server: Server, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        call = len(server.asked) - 1
        self._came[call].set()
        assert await asyncio.to_thread(self._gates[call].wait, PATIENCE)
        return await self._then[call](server, request, body)

    async def came(self, call: int) -> None:
        assert await asyncio.to_thread(self._came[call].wait, PATIENCE)

    def release(self, *calls: int) -> None:
        for call in calls or range(len(self._gates)):
            self._gates[call].set()


def trying(server: Server) -> Answers:
    """They open at the first call that fails, and the next one tries."""
    patient, policy = timedelta(seconds=PATIENCE), BreakerPolicy(calls=1, wait=0.0)
    return Answers({"m": Source(server.model(seconds=PATIENCE), patient, policy)})


def test_after_a_probe_that_is_cancelled_the_next_batch_tries(server: Server) -> None:
    """As a rebalance does it with the lanes that are taken away."""
    busy, _ = FAULTS["429"]
    server.handler = held = Held(busy, good, good)
    answers = trying(server)

    async def run() -> list[dict[str, Any]]:
        held.release(0)
        await process(plan_of(), answers)
        probe = asyncio.create_task(process(plan_of(), answers))
        await held.came(1)
        assert answers.states() == {"m": "half-open"}
        probe.cancel()
        await asyncio.wait([probe])
        held.release(2)
        return await process(plan_of(), answers)

    try:
        assert {one["tier"] for one in asyncio.run(run())} == {"automatic"}
    finally:
        held.release()
    assert answers.states() == {"m": "closed"}


def test_a_batch_that_is_not_sent_says_nothing_of_the_server(server: Server) -> None:
    """Where an input is missing in every row there is no request, and so nothing to learn from it."""
    busy, _ = FAULTS["429"]
    server.handler = busy
    whole, missing = (Score("m", {"x": np.full(2, x), "y": np.ones(2)}, ["a", "b"]) for x in (1.0, np.nan))
    seconds = timedelta(seconds=PATIENCE)
    answers = Answers({"m": Source(server.model(seconds=PATIENCE), seconds, BreakerPolicy(calls=2, wait=0.0))})

    def state_after(*asks: Score) -> str:
        for ask in asks:
            asyncio.run(answers([ask]))
        return answers.states()["m"]

    assert state_after(whole, missing, missing) == "closed"
    assert state_after(whole) == "open"
    assert state_after(missing) == "open"
    [answer] = asyncio.run(answers([missing]))
    assert list(answer.reasons) == ["not_finite"] * 2
    assert len(server.asked) == 2
    server.handler = good
    assert state_after(whole) == "closed"


@pytest.mark.parametrize(("then", "state"), [("429", "open"), ("good", "closed")])
def test_an_old_answer_says_nothing_of_the_call_that_tries(server: Server, then: str, state: str) -> None:
    busy, _ = FAULTS["429"]
    old, last = (good, busy) if then == "429" else (busy, good)
    server.handler = held = Held(old, busy, last)
    answers = trying(server)

    async def run() -> None:
        first = asyncio.create_task(process(plan_of(), answers))
        await held.came(0)
        held.release(1)
        await process(plan_of(), answers)
        assert answers.states() == {"m": "open"}
        probe = asyncio.create_task(process(plan_of(), answers))
        await held.came(2)
        held.release(0)
        found = await first
        assert {one["tier"] for one in found} == {"automatic" if old is good else "fallback:people"}
        assert answers.states() == {"m": "half-open"}
        assert {one["score_reason"] for one in await process(plan_of(), answers)} == {"breaker_open"}
        held.release(2)
        await probe

    try:
        asyncio.run(run())
    finally:
        held.release()
    assert answers.states() == {"m": state}


def test_a_pipeline_file_with_all_of_it(server: Server, tmp_path: Path) -> None:
    """The keys of the file reach the models: classes, own confidence, version, bounds."""
    schema = Path(__file__).parent / "broken" / "event.schema.json"
    (tmp_path / "event.schema.json").write_bytes(schema.read_bytes())
    (tmp_path / "own_scores.py").write_text(
        "def score(columns):\n"
        "    x = columns['amount'] / 100\n"
        "    return {'score': [[1 - y, y] for y in x], 'confidence': x, 'version': 'v7'}\n",
        encoding="utf-8",
    )
    (tmp_path / "pipeline.yaml").write_text(
        f"""
pipeline: payments
events: {{topic: payments.events, schema: event.schema.json}}
model:
  - {{id: far, http: "{server.url}", inputs: [amount, age_days], timeout: 500ms, in_flight: 2}}
  - python: "own_scores:score"
    inputs: [amount]
    classes: [bad, good]
    score: bad
    timeout: 2s
    recycle: {{calls: 9}}
shadow: [{{id: same, python: "own_scores:score", inputs: [amount]}}]
confidence: COALESCE(model_confidence, ABS(score - 0.5))
rules:
  - {{id: unsure, when: confidence < 0.3 AND score_bad > 0.5, decide: fallback}}
  - {{id: rest, decide: approve}}
fallback: [{{id: none, decide: abstain}}]
actions: {{approve: null}}
""",
        encoding="utf-8",
    )
    server.handler, _ = FAULTS["429"]
    pipeline = open_pipeline(tmp_path / "pipeline.yaml")
    values = [
        b'{"id": "a", "amount": %d, "age_days": 1, "time": "2024-05-01T12:00:00Z"}' % amount for amount in (20, 80)
    ]
    steps = pipeline.processor.process(batch_of("payments.events", values), Tables(("cap",)), NOTHING_SEEN, EPOCH)
    given: list[Answer] | None = None
    try:
        while True:
            given = asyncio.run(pipeline.answers(next(steps) if given is None else steps.send(given)))
    except StopIteration as stop:
        effects = stop.value
    finally:
        pipeline.answers.close()
    [first, second] = [
        orjson.loads(value) for one in effects.records if one.topic == "payments.decisions" for value in one.values
    ]
    assert (first["decision"], first["fallback_reason"], first["scored_by"]) == ("abstain", "low_confidence", "python")
    assert (second["decision"], second["tier"], second["fallback_reason"]) == ("approve", "stand-in:python", "error")
    assert first["score"] == first["features"]["score_bad"] == 0.8
    assert first["features"]["score_good"] == first["features"]["model_confidence"] == 0.2
    assert first["model"].endswith("@v7")
    assert first["confidence_hash"] == pipeline.plan.confidence_hash != None  # noqa: E711
    assert first["shadows"]["same"]["score"] == 0.2
