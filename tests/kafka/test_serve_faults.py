"""The door under faults: killed under load, and a broker that goes away."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import orjson
import pytest

from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.kafka.dev_broker import DevBroker
from streamproc.serve.writing import AWAY_SECONDS
from tests.kafka import car_loan
from tests.kafka.doors import Door, door, wait_until_ready

DEDUPE = [("  key: id\n", "  key: id\n  id: id\n  dedupe: 24h\n")]
CALLERS = 8
KILLS = 2
EVENTS = 480
ROWS = [value or b"" for _, value in car_loan.events(EVENTS, damaged=False)]


class Caller(threading.Thread):
    """Sends events one after another until each has an answer: to the next door, where one is gone."""

    def __init__(self, doors: list[Door], rows: Sequence[bytes]) -> None:
        super().__init__(daemon=True)
        self._doors, self._rows = doors, rows
        self.answers = dict[int, list[str]]()
        self.repeated = 0
        self.wrong = list[Any]()

    def run(self) -> None:
        for number, row in enumerate(self._rows):
            identity = orjson.loads(row)["id"]
            for attempt in range(400):
                try:
                    answer = self._doors[(number + attempt) % len(self._doors)].decide(row, "10s")
                except (OSError, http.client.HTTPException):
                    self.repeated += 1
                    time.sleep(0.02)
                    continue
                if answer.status == 200:
                    self.answers.setdefault(identity, []).append(answer.json["id"])
                    if number % 5 == attempt:
                        continue  # once more, though it was answered
                    break
                if answer.status in (202, 503):
                    self.repeated += 1
                    continue
                self.wrong.append((answer.status, answer.body))
                return


@pytest.mark.timeout(280)
def test_doors_that_are_killed_under_load_lose_nobodys_event(connection: Any) -> None:
    made = car_loan.make(connection, partitions=3, changes=DEDUPE)
    with car_loan.worker(made), ExitStack() as stack:
        doors = [stack.enter_context(door(made)) for _ in range(2 + KILLS)]
        spares = [doors.pop() for _ in range(KILLS)]
        callers = [Caller(doors, ROWS[number:EVENTS:CALLERS]) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        for kill in range(KILLS):
            while sum(len(caller.answers) for caller in callers) < (kill + 1) * EVENTS // 4:
                time.sleep(0.005)
            doors[kill % 2].process.kill()
            doors[kill % 2].process.wait()
            doors[kill % 2] = spares.pop()
        for caller in callers:
            caller.join(120)
            assert not caller.is_alive() and caller.wrong == []
        answers = {identity: ids for caller in callers for identity, ids in caller.answers.items()}
        assert len(answers) == EVENTS
        assert sum(caller.repeated for caller in callers) > 0
        assert all(len(set(ids)) == 1 for ids in answers.values())
        events = len(made.read("events"))
        car_loan.wait_for_results(made, events)
    decided = [orjson.loads(record.value) for record in made.read("decisions")]
    assert {int(one["key"]): one["id"] for one in decided} == {identity: ids[0] for identity, ids in answers.items()}
    assert len(decided) == EVENTS
    letters = [dict(record.headers)["sp-reason"] for record in made.read("dead-letter")]
    assert set(letters) <= {b"duplicate"} and len(letters) == events - EVENTS


@pytest.mark.timeout(280)
def test_a_broker_that_goes_away_is_told_and_waited_for() -> None:
    with DevBroker() as broker:
        connection = Connection((broker.address,))
        made = car_loan.make(connection, partitions=2, changes=DEDUPE)
        with car_loan.worker(made), door(made) as opened:
            assert opened.decide(ROWS[0]).status == 200
            broker.kill()
            began = time.monotonic()
            answer = opened.decide(ROWS[1], "1s")
            assert answer.status == 503 and answer.json["type"] == "urn:streamproc:problem:broker-away"
            assert int(answer.headers["Retry-After"]) > 0
            assert time.monotonic() - began < 8
            wait_until_ready(opened, status=503, seconds=20)
            began = time.monotonic()
            assert opened.events(*ROWS[2:100]).status == 503
            assert time.monotonic() - began < 1, "what is known to be away is not waited for"
            known = opened.decide(ROWS[0])
            assert known.status == 503
            broker.restart()
            wait_until_ready(opened, seconds=120)
            again = opened.decide(ROWS[1], "30s")
            until = time.monotonic() + 90
            while again.status in (202, 503) and time.monotonic() < until:
                again = opened.decide(ROWS[1], "30s")
            assert again.status == 200
            assert opened.events(*ROWS[2:100]).json["taken"] == 98
            events = len(made.read("events"))
            car_loan.wait_for_results(made, events)
        keys = [record.key for record in made.read("decisions")]
        assert len(keys) == len(set(keys)) == 100


@pytest.mark.timeout(280)
def test_an_event_that_its_caller_gave_up_is_on_its_way_and_is_not_written_again() -> None:
    """A key of the caller's alone: no `dedupe` would find a second record."""
    with DevBroker() as broker:
        made = car_loan.make(Connection((broker.address,)), partitions=2)
        with car_loan.worker(made), door(made) as opened:
            assert opened.decide(ROWS[0]).status == 200
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                gone = opened.decide(ROWS[1], "1s", Idempotency_Key="one")
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            assert gone.status == 503
            again, until = gone, time.monotonic() + 120
            while again.status in (202, 503) and time.monotonic() < until:
                again = opened.decide(ROWS[1], "10s", Idempotency_Key="one")
            assert again.status == 200
            assert len(made.read("events")) == 2
            car_loan.wait_for_results(made, 2)
        assert len(made.read("decisions")) == 2


def test_marks_that_cannot_be_written_do_not_hold_up_events(connection: Any) -> None:
    made = car_loan.make(connection, partitions=2)
    with door(made) as opened:
        asyncio.run(admin.delete_topics(connection, [made.topic("unseen")]))
        late = threading.Thread(target=opened.decide, args=(ROWS[0], "50ms"), daemon=True)  # there is no worker
        late.start()
        taken, until = 0, time.monotonic() + 2 * AWAY_SECONDS
        while time.monotonic() < until:
            answer = opened.events(ROWS[1 + taken % 400])
            assert answer.status == 202
            taken += 1
        late.join(60)
        assert not late.is_alive()
        assert len(made.read("events")) == 1 + taken
