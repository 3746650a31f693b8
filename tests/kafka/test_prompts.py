"""Labels of prompts reach workers through the control topic while events keep coming, on a real Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from streamproc.kafka.connection import Connection
from tests.kafka.car_loan import Example, command, events, make, produce, wait_for_results, worker
from tests.kafka.test_llm import ANSWER, MODEL, WORDS
from tests.llm_server import said, serving
from tests.record_schemas import record_problems

WITHIN = 2.0
"""Seconds from the end of the command to the first decision with the new version."""
SECONDS = 60.0


class Steady:
    """Sends an event every few hundredths of a second, from a thread."""

    def __init__(self, made: Example) -> None:
        self._made, self._rows = made, events(5_000, damaged=False)
        self.sent = 0
        self._stop = threading.Event()

    @contextmanager
    def sending(self) -> Iterator[None]:
        thread = threading.Thread(target=self._send)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _send(self) -> None:
        while not self._stop.wait(0.05):
            produce(self._made.connection, self._made.topic("events"), self._rows[self.sent : self.sent + 4])
            self.sent += 4


def with_words(connection: Connection, url: str) -> Example:
    """The example with a language model that has two versions of a prompt."""
    made = make(connection, 2, [(MODEL, WORDS.format(url=url))])
    text = made.file.read_text(encoding="utf-8")
    made.file.write_text(text[: text.index("\ntests:")] + "\n", encoding="utf-8")
    prompt = made.file.parent / "prompts/loans"
    prompt.mkdir(parents=True)
    (prompt / "1.md").write_text("Say how likely it is that the loan is repaid.")
    (prompt / "2.md").write_text("---\nauthor: ada\n---\nSay how likely it is that all of the loan is repaid.")
    (prompt / "labels.yaml").write_text('production: "1"\n')
    (made.file.parent / "answer.schema.json").write_bytes(orjson.dumps(ANSWER))
    return made


def decisions(made: Example) -> list[tuple[int, dict[str, Any]]]:
    return [(record.timestamp, orjson.loads(record.value)) for record in made.read("decisions")]


def until(made: Example, prompt: str) -> list[tuple[int, dict[str, Any]]]:
    """The decisions once there is one with this version."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = decisions(made)
        if any(one["features"]["llm_prompt"] == prompt for _, one in found):
            return found
        assert time.monotonic() < deadline, len(found)
        time.sleep(0.1)


def test_a_label_reaches_workers_within_two_seconds_and_holds_for_those_that_start_later(
    connection: Connection,
) -> None:
    with serving(said('{"score": 0.9, "why": "pays well"}')) as server:
        made = with_words(connection, server.url)
        file, steady = str(made.file), Steady(made)
        with worker(made), worker(made), steady.sending():
            wait_for_results(made, 20)
            until(made, "loans@1")
            command(made, "prompt", "label", file, "loans", "canary", "2", "--share", "50%", "--why", "a test")
            until(made, "loans@2")
            command(made, "prompt", "label", file, "loans", "production", "2", "--why", "better", "--by", "ada")
            ended = time.time()
            time.sleep(2 * WITHIN)
        sent = steady.sent
        wait_for_results(made, sent)
        found = decisions(made)
        assert len({one["id"] for _, one in found}) == len(found) == sent, "nothing is lost or doubled"
        late = [at / 1000 - ended for at, one in found if one["features"]["llm_prompt"] == "loans@1"]
        assert max(late) < WITHIN
        assert sum(at / 1000 > ended + WITHIN for at, _ in found) > 0, "there were events by which to tell"

        shown = command(made, "prompt", "list", file, "--running", "--json").output.splitlines()
        assert [orjson.loads(line)["running"] for line in shown] == [None, "production"]
        command(made, "prompt", "label", file, "loans", "production", "1", "--why", "by hand", "--file-only")
        told = command(made, "prompt", "list", file, "--running").output
        assert "workers use production 2, says ada: better; its files say production 1" in told
        produce(made.connection, made.topic("events"), events(5_000, damaged=False)[sent : sent + 20])
        with worker(made):
            wait_for_results(made, sent + 20)
    later = sorted(decisions(made), key=lambda one: one[0])[-20:]
    assert {one["features"]["llm_prompt"] for _, one in later} == {"loans@2"}, "what was said holds over the files"
    for role in ("control", "audit", "artefacts", "decisions"):
        for record in made.read(role):
            assert record_problems(record.value, record.headers) == [], role
