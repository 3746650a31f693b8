"""Part of a demonstration's events by HTTP: which ones, how they are asked for, and what is counted of both ways."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web

from streamproc import demo
from streamproc.core.plan import Plan
from streamproc.core.processor import Headers, Records
from streamproc.core.records import DUPLICATE, DeadLetter, Source
from streamproc.demo import callers
from streamproc.demo import tally as tallies
from streamproc.demo.callers import Callers
from streamproc.demo.events import Events, by_place, by_trace, traced
from streamproc.demo.loans import real_events
from streamproc.demo.loopback import Loopback
from streamproc.demo.messages import messages
from streamproc.demo.payments import real_payments
from streamproc.demo.ways import EVERY, Both, Ways, ways_of
from streamproc.errors import EnvironmentFault
from streamproc.pipeline import open_pipeline
from streamproc.sample import example


def plan_of(name: str) -> Plan:
    environ = {"TRIAGE_LLM": "http://127.0.0.1:9/v1"}
    return open_pipeline(example(name) / "pipeline.yaml", environ).plan


# -- which ones -----------------------------------------------------------------------------------------------------


def test_one_of_ten_goes_by_http_the_same_ones_each_time() -> None:
    plan, events = plan_of("car_loan"), real_events(1_000, 0.1)
    ways = ways_of(plan, events)
    assert ways == ways_of(plan, events)
    without = [number for number in range(0, 1_000, EVERY) if not events.values[number]]
    assert without and ways.by_http == tuple(sorted({*range(0, 1_000, EVERY)} - {*without}))
    assert (ways.in_turn, ways.alike) == (False, {})
    right = {number for number in ways.by_http if isinstance(plan.contract.check(events.values[number]), dict)}
    assert ways.damaged == {*ways.by_http} - right and 0 < len(ways.damaged) < 20


def test_where_features_remember_all_events_of_a_key_go_the_same_way() -> None:
    events = real_payments(5_000, 0.0).events
    ways = ways_of(plan_of("card_fraud"), events)
    by_http = {events.keys[number] for number in ways.by_http}
    assert ways.in_turn
    assert ways.by_http == tuple(number for number, key in enumerate(events.keys) if key in by_http)
    assert 0.5 / EVERY < len(by_http) / len({*events.keys}) < 2 / EVERY


def test_events_with_one_id_are_known() -> None:
    made = messages(1_000, 0.0)
    ways = ways_of(plan_of("support_triage"), made.events)
    again = {number for number, truth in enumerate(made.truth) if truth.kind == "again"}
    assert again and {number for number, first in ways.alike.items() if first != number} == again
    assert all(made.truth[first].kind != "again" for first in ways.alike.values())


def test_an_event_is_known_by_where_it_stands_or_by_its_trace() -> None:
    keys = [b"%d" % key for key in (5, 3, 5, 9, 3, 7, 5)]
    number, places = by_place(keys), set[tuple[int, int]]()
    for partition in range(demo.PARTITIONS):
        for offset in range(len(keys)):
            try:
                assert 0 <= number(partition, offset, ()) < len(keys)
            except IndexError:
                break
            places.add((partition, offset))
    assert sorted(number(*place, ()) for place in places) == [*range(len(keys))]
    assert [by_trace(0, 0, (("sp-type", b"x"), traced(one))) for one in (0, 49_999)] == [0, 49_999]


# -- who asks -------------------------------------------------------------------------------------------------------


Answering = Callable[[int, int], web.Response | None]
"""What to say to an event the how-manieth time that it is sent, counted from 0; nothing breaks the connection off."""


@dataclass
class FakeDoor:
    """Answers as it is told; ``asked`` are the ids that came, in order."""

    answering: Answering
    asked: list[str] = field(default_factory=list)
    bodies: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    connections: set[Any] = field(default_factory=set)
    most: int = 0
    now: int = 0
    wait: Callable[[], Awaitable[None]] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        own, body = request.headers["Idempotency-Key"], await request.read()
        number = by_trace(0, 0, (("traceparent", request.headers["traceparent"].encode()),))
        times = self.asked.count(own)
        self.asked.append(own)
        self.bodies[own].add(body)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.wait is not None:
                await self.wait()
            answer = self.answering(number, times)
        finally:
            self.now -= 1
        if answer is None:
            request.transport.abort()
            return web.Response()
        return answer


@contextmanager
def opened(answering: Answering) -> Iterator[tuple[FakeDoor, str]]:
    door = FakeDoor(answering)
    server = Loopback("/v1/decide", door.handle)
    server.start()
    try:
        yield door, server.url
    finally:
        server.stop()


def events_of(keys: list[bytes]) -> Events:
    return Events(keys, [b'{"number":%d}' % number for number in range(len(keys))], 0)


def both_of(count: int, *, in_turn: bool = False, alike: dict[int, int] | None = None) -> Both:
    return Both(Ways(tuple(range(count)), in_turn, alike or {}))


def ask(url: str, both: Both, keys: list[bytes], check: Callable[[], None] = lambda: None) -> None:
    """With all events due at once, nearly."""
    asyncio.run(Callers(url, events_of(keys), both, 1e6, check).run())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "SHORTEST_WAIT", 0.01)


@pytest.mark.usefixtures("quick")
def test_what_is_not_answered_is_sent_again_with_the_same_id_until_it_is() -> None:
    def answering(number: int, times: int) -> web.Response | None:
        if times >= 3:
            return web.Response()
        return None if number % 2 else web.Response(status=(503, 429, 500)[times])

    both = both_of(40)
    with opened(answering) as (door, url):
        ask(url, both, [b"k"] * 40)
    asked = both.asked
    assert asked.in_time == {*range(40)} and not asked.unanswered
    assert set(asked.again.values()) == {3} and len(asked.again) == 40
    assert set(Counter(door.asked).values()) == {4}
    assert {own: len(bodies) for own, bodies in door.bodies.items()} == {f"demo-{number}": 1 for number in range(40)}


def test_the_door_says_when_to_send_again() -> None:
    def answering(number: int, times: int) -> web.Response | None:
        return web.Response() if times else web.Response(status=503, headers={"Retry-After": "1"})

    both, began = both_of(1), time.monotonic()
    with opened(answering) as (_, url):
        ask(url, both, [b"k"])
    assert time.monotonic() - began >= 1.0
    assert both.asked.seconds[0] >= 1.0  # a latency is from when it was due


def test_what_cannot_be_right_is_not_sent_again() -> None:
    told = {0: {"errors": []}, 1: {"id": "7", "errors": []}}

    def answering(number: int, times: int) -> web.Response | None:
        return web.Response(status=404) if number == 2 else web.Response(status=422, body=orjson.dumps(told[number]))

    both = both_of(3)
    with opened(answering) as (door, url):
        ask(url, both, [b"k"] * 3)
    assert (both.asked.refused, both.asked.dead, both.asked.unanswered) == ({0}, {1}, {2})
    assert len(door.asked) == 3 and both.asked.seconds == []


def test_late_ones_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "LATER_SECONDS", 0.2)
    both, began = both_of(20), time.monotonic()

    def answering(number: int, times: int) -> web.Response | None:
        return web.Response(status=200 if number % 2 or times else 202)

    with opened(answering) as (door, url):
        ask(url, both, [b"k"] * 20)
    assert time.monotonic() - began >= 0.2
    assert both.asked.late == both.asked.late_answered == {*range(0, 20, 2)}
    assert both.asked.in_time == {*range(1, 20, 2)}
    assert len(both.asked.seconds) == 20  # the first answers
    assert Counter(door.asked) == {f"demo-{number}": 1 if number % 2 else 2 for number in range(20)}


def test_those_of_a_key_are_sent_in_turn() -> None:
    keys = [b"a", b"b"] * 20

    async def wait() -> None:
        await asyncio.sleep(0)

    both = both_of(40, in_turn=True)
    with opened(lambda number, times: web.Response()) as (door, url):
        door.wait = wait
        ask(url, both, keys)
    sent = [int(own.removeprefix("demo-")) for own in door.asked]
    assert [number for number in sent if number % 2 == 0] == [*range(0, 40, 2)]
    assert [number for number in sent if number % 2] == [*range(1, 40, 2)]
    assert door.most <= 2


def test_only_so_many_ask_at_once_on_connections_that_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "CALLERS", 8)

    async def wait() -> None:
        await asyncio.sleep(0.002)

    both = both_of(200)
    with opened(lambda number, times: web.Response()) as (door, url):
        door.wait = wait
        ask(url, both, [b"k"] * 200)
    assert len(both.asked.in_time) == 200
    assert 1 < door.most <= 8 and len(door.connections) <= 8


@pytest.mark.usefixtures("quick")
def test_nobody_goes_on_asking_a_door_that_has_ended() -> None:
    def ended() -> None:
        raise EnvironmentFault("the door ended with code -9", "")

    with opened(lambda number, times: None) as (_, url), pytest.raises(ExceptionGroup) as told:
        ask(url, both_of(5), [b"k"] * 5, ended)
    assert told.group_contains(EnvironmentFault, match="code -9")


@pytest.mark.usefixtures("quick")
def test_what_is_never_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "GIVE_UP_SECONDS", 0.1)
    both = both_of(3)
    with opened(lambda number, times: None) as (_, url):
        ask(url, both, [b"k"] * 3)
    assert both.asked.unanswered == {0, 1, 2}


# -- what is counted ------------------------------------------------------------------------------------------------


EVENTS = 6


@dataclass
class Counting:
    """A tally of a few events, of which 0 and 3 and 5 go by HTTP, and 1 and 3 and 5 have the same id."""

    plan: Plan = field(default_factory=lambda: plan_of("support_triage"))
    damaged: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.both = Both(Ways((0, 3, 5), in_turn=False, alike={1: 1, 3: 1, 5: 1}, damaged=self.damaged))
        self.tally = demo.Tally(EVENTS, by_trace, both=self.both)

    def decide(self, *numbers: int) -> None:
        for number in numbers:
            source = {"topic": "t", "partition": 0, "offset": 9, "timestamp": 1_000}
            value = orjson.dumps({"id": "0-a", "source": source, "key": "k", "time": "x", "decision": "queue", "n": 1})
            self._add(self.plan.topics.decisions, value, (traced(number),))

    def bury(self, number: int, reason: str) -> None:
        letter = DeadLetter("dedupe", reason)
        self._add(self.plan.topics.dead_letters, b"", letter.headers("p", Source("t", 0, 9, 1_000), (traced(number),)))

    def _add(self, topic: str, value: bytes, headers: Headers) -> None:
        one = np.array([1_000])
        demo.add(self.tally, self.plan, Records(topic, 0, [b"k"], [value], [headers], one, one), 1.5)

    @property
    def wrong(self) -> dict[str, tuple[int, int]]:
        """Missing and doubled, by way."""
        ways = self.tally.summary("")["ways"]
        return {way: (ways[way]["missing"], ways[way]["duplicates"]) for way in ("kafka", "http")}

    @property
    def all_in_all(self) -> tuple[int, int]:
        summary = self.tally.summary("")
        return summary["missing"], summary["duplicates"]


def test_each_way_has_what_is_missing_and_doubled() -> None:
    counting = Counting()
    assert (counting.wrong, counting.all_in_all) == ({"kafka": (3, 0), "http": (3, 0)}, (6, 0))
    counting.decide(0, 1, 2, 3, 4, 5)
    assert (counting.wrong, counting.all_in_all) == ({"kafka": (0, 0), "http": (0, 0)}, (0, 0))
    counting.decide(0, 2, 2)
    assert (counting.wrong, counting.all_in_all) == ({"kafka": (0, 2), "http": (0, 1)}, (0, 3))
    assert len(counting.tally.latencies) == 5  # of those by Kafka


def test_an_event_that_is_found_to_be_a_repetition_of_itself_is_not_doubled() -> None:
    counting = Counting()
    counting.decide(0, 1, 2, 3, 4, 5)
    counting.bury(0, DUPLICATE)
    assert counting.all_in_all == (0, 0)
    counting.bury(0, "contract_type")
    assert counting.all_in_all == (0, 1)


def test_a_repetition_alone_settles_nothing() -> None:
    counting = Counting()
    counting.decide(1, 2, 3, 4, 5)
    counting.bury(0, DUPLICATE)
    counting.both.asked.in_time |= {0}
    assert counting.wrong["http"] == (1, 0)


@pytest.mark.parametrize("damaged", [True, False])
def test_what_the_door_refused_is_on_no_topic_and_missing_where_nothing_is_wrong_with_it(damaged: bool) -> None:
    counting = Counting(damaged=frozenset({0} if damaged else ()))
    counting.decide(1, 2, 3, 4, 5)
    counting.both.asked.refused.add(0)
    assert (counting.wrong["http"], counting.all_in_all) == (((0, 0), (0, 0)) if damaged else ((1, 0), (1, 0)))
    assert counting.tally.summary("")["ways"]["http"]["refused"] == 1


def test_silence_ends_the_count_only_when_all_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    counting, polls = Counting(), 0

    async def take(*of: Any, **more: Any) -> dict[Any, Records]:
        nonlocal polls
        polls += 1
        if polls == 5:  # a caller who tried for long was told at last
            counting.both.written = EVENTS
        return {}

    monkeypatch.setattr(tallies, "QUIET_SECONDS", -1.0)
    monkeypatch.setattr(tallies, "take", take)
    silent: Any = SimpleNamespace(assignment=list)
    asyncio.run(asyncio.wait_for(tallies.recount(silent, counting.plan, counting.tally, []), 60))
    assert polls == 5


def test_an_event_is_answered_as_another_one_with_its_id() -> None:
    counting = Counting()
    counting.decide(0, 2, 4)
    counting.bury(5, DUPLICATE)
    counting.both.asked.in_time |= {3}
    counting.both.asked.late |= {5}
    assert counting.wrong["http"] == (2, 0)  # the first of them is not there: nobody can have been answered as it was
    counting.decide(1)
    assert counting.all_in_all == (0, 0)


def test_it_is_counted_on_until_something_came_of_all_that_was_sent() -> None:
    counting = Counting()
    counting.decide(0, 1, 2, 3, 4, 5)
    assert not counting.tally.decided_all  # callers may send again
    counting.both.written = 8
    assert not counting.tally.decided_all
    counting.bury(0, DUPLICATE)
    counting.decide(3)
    assert counting.tally.decided_all
    assert counting.all_in_all == (0, 1)


def test_a_decision_that_nobody_carries_out_is_not_waited_for() -> None:
    plan = plan_of("card_fraud")
    tally = demo.Tally(10, by_trace, decisions=Counter(noted=3, approve=2, review=1), actions=2)
    assert not tally.followed_all(plan)
    tally.reviews = 1
    assert tally.followed_all(plan)


# -- without it -----------------------------------------------------------------------------------------------------


def test_without_it_nothing_of_it_is_imported() -> None:
    code = "import sys, streamproc.cli.demo, streamproc.demo; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode().split()
    more = {f"streamproc.demo.{name}" for name in ("by_http", "callers", "door", "ways")}
    assert "streamproc.demo.running" in loaded
    assert not more & {*loaded}
    assert not [name for name in loaded if name.startswith("streamproc.serve")]
