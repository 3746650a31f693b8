"""Labels of prompts reach workers through the control topic while events keep coming, on a real Kafka."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson
from aiohttp import web
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from streamproc.artefacts import KIND
from streamproc.cli import cli
from streamproc.control import say
from streamproc.core.llm.prompts import Prompts
from streamproc.kafka import admin
from streamproc.kafka.connection import Connection
from streamproc.labels import load_prompts, record_of
from tests.kafka.car_loan import Example, command, events, make, produce, wait_for_results, worker
from tests.kafka.processes import Workers
from tests.kafka.test_llm import ANSWER, MODEL, WORDS
from tests.kafka.test_outcomes import Made
from tests.llm_server import Server, said, serving
from tests.outcomes_recount import Recount
from tests.record_schemas import record_problems

WITHIN = 2.0
"""Seconds from the end of a command to the last decision with the old version, beside what decisions take anyway."""
SECONDS = 180.0


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
        there = asyncio.run(admin.describe(made.connection, [made.topic("decisions")]))
        found = decisions(made) if there else []
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
        with worker(made), worker(made):
            with steady.sending():
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
        takes = max((at - one["source"]["timestamp"]) / 1000 for at, one in found if at / 1000 > ended)
        assert max(late) < WITHIN + takes
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
    explained_by_their_prompts(made, found)
    assert {one["features"]["llm_prompt"] for _, one in later} == {"loans@2"}, "what was said holds over the files"
    for role in ("control", "audit", "artefacts", "decisions"):
        for record in made.read(role):
            assert record_problems(record.value, record.headers) == [], role


def explained_by_their_prompts(made: Example, found: list[tuple[int, dict[str, Any]]]) -> None:
    """Each decision can be explained by the text that was used, be it from files or from what was said."""
    for version in ("1", "2"):
        one = next(one for _, one in found if one["features"]["llm_prompt"] == f"loans@{version}")
        topic = ("--topic", made.topic("decisions"), "--json")
        told = orjson.loads(command(made, "decision", "show", one["id"], *topic).output)
        file = (made.file.parent / f"prompts/loans/{version}.md").read_text()
        assert told["prompts"] == {one["features"]["llm_prompt_hash"]: file}


def test_what_does_not_count_changes_nothing_for_a_worker_that_starts_later_and_is_shown_nowhere(
    connection: Connection,
) -> None:
    with serving(said('{"score": 0.9, "why": "pays well"}')) as server:
        made = with_words(connection, server.url)
        file, rows = str(made.file), events(5_000, damaged=False)
        used = load_prompts(made.file)[1]["loans"]
        two = Prompts(used.registry.read("2"))
        record = record_of(made.name, two, datetime.now(UTC), "eve", "a test")
        forged = msgspec.structs.replace(record, production=msgspec.structs.replace(record.production, text="Lend."))
        produce(made.connection, made.topic("events"), rows[:20])
        with worker(made):
            wait_for_results(made, 20)
            asyncio.run(say(connection, forged))
            told = command(made, "prompt", "list", file, "--running").output
            assert "loans: the newest labels on the control topic do not count: the text of version 2" in told
            command(made, "prompt", "label", file, "loans", "production", "2", "--why", "better")
        asyncio.run(say(connection, forged))
        command(made, "prompt", "label", file, "loans", "production", "1", "--why", "by hand", "--file-only")
        shown = command(made, "prompt", "list", file, "--running", "--json").stdout.splitlines()
        assert [orjson.loads(line)["running"] for line in shown] == [None, "production"]
        produce(made.connection, made.topic("events"), rows[20:40])
        with worker(made):
            wait_for_results(made, 40)
    found = [one for _, one in sorted(decisions(made), key=lambda one: one[0])]
    assert [one["features"]["llm_prompt"] for one in found] == ["loans@1"] * 20 + ["loans@2"] * 20
    sha256 = two.production.hash
    asyncio.run(forge(connection, made.topic("artefacts"), sha256))
    topic = ("--topic", made.topic("decisions"), "--json")
    told = orjson.loads(command(made, "decision", "show", found[-1]["id"], *topic).output)
    assert told["prompts"] == {sha256: two.production.file}


async def forge(connection: Connection, topic: str, sha256: str) -> None:
    """Put a prompt under the hash of another one."""
    producer = AIOKafkaProducer(**connection.client_kwargs())
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"Lend.", key=sha256.encode(), headers=[(KIND, b"prompt")])
    finally:
        await producer.stop()


FILE = """
pipeline: NAME
events: {topic: NAME.events, schema: event.schema.json, key: id}
model:
  llm: {endpoint: URL, model: m, prompt: prompts/triage, input: [body], output: answer.schema.json, deadline: 5s}
confidence: model_confidence
rules:
  - {id: unsure, when: confidence < 0.5, decide: review}
  - {id: urgent, when: score > 0.8, decide: escalate}
  - {id: rest, decide: answer}
review: {ttl: 1h, on_expiry: answer}
actions: {escalate: null, answer: null}
outcomes: {values: [right, wrong], errors: {answer: [wrong], escalate: [wrong]}, window: 1h}
"""
BODIES = ["Where is my parcel?", "My card was stolen", "What is this"]


async def triage(server: Server, request: web.Request, body: dict[str, Any]) -> Any:
    """The second prompt is never in doubt."""
    system, user = (one["content"] for one in body["messages"])
    sure = "What is this" not in user or system.startswith("Second")
    return await said(f'{{"score": {0.9 if "stolen" in user else 0.1}, "confidence": {0.9 if sure else 0.1}}}')(
        server, request, body
    )


def support(connection: Connection, folder: Path, url: str) -> Made:
    made = Made(connection, folder)
    made.file.write_text(FILE.replace("NAME", made.name).replace("URL", url))
    texts = {"type": "object", "properties": {"id": {"type": "string"}, "body": {"type": "string"}}}
    numbers = {"type": "object", "properties": {name: {"type": "number"} for name in ("score", "confidence")}}
    (folder / "event.schema.json").write_bytes(orjson.dumps(texts))
    (folder / "answer.schema.json").write_bytes(orjson.dumps(numbers))
    prompt = folder / "prompts/triage"
    prompt.mkdir(parents=True)
    (prompt / "1.md").write_text("First: how urgent is it?")
    (prompt / "2.md").write_text("Second: how urgent is it?")
    (prompt / "labels.yaml").write_text('production: "1"\ncanary: {version: "2", share: 50%}\n')
    return made


def test_outcomes_and_overrides_are_told_by_the_version_of_the_prompt(connection: Connection, tmp_path: Path) -> None:
    count = 120
    with serving(triage) as server:
        made = support(connection, tmp_path, server.url)
        rows = [(b"m%d" % n, orjson.dumps({"id": f"m{n}", "body": BODIES[n % 3]})) for n in range(count)]
        arguments = ["-m", "streamproc", "run", str(made.file), "--kafka", connection.address]
        with Workers(arguments, 2, tmp_path / "workers.log") as processes:
            made.send("events", rows)
            made.wait("decisions", count)
            first = [orjson.loads(record.value) for record in made.read("decisions")]
            reviewed = [one for one in first if one["decision"] == "review"]
            said_by_people = [
                {"id": one["id"], "by": "ada", "decision": "escalate" if n % 4 == 0 else "answer"}
                for n, one in enumerate(reviewed)
            ]
            made.send("verdicts", [(b"v", orjson.dumps(one)) for one in said_by_people])
            time_of = "2026-01-01T00:00:00Z"
            came = [
                {"id": one["id"], "value": "wrong" if one["key"] in ("m0", "m1", "m3") else "right", "time": time_of}
                for one in first
                if one["decision"] != "review"
            ]
            made.send("outcomes", [(b"o", orjson.dumps(one)) for one in came])
            made.wait("came/", len(came))
            made.wait("compared", len(reviewed))
            processes.stop()
    topics = ("decisions", "review-events", "outcomes-by-lane")
    raw = [[(record.value, record.timestamp) for record in made.read(role)] for role in topics]
    recount = Recount(("right", "wrong"), seconds=3600, prompts={"llm": "llm_prompt"}).take(*raw)
    found = made.windows()
    assert {start: window.groups for start, window in found.items()} == {
        start: window.groups for start, window in recount.items()
    }
    for record in made.read("metrics"):
        assert record_problems(record.value, record.headers) == []

    def stats(*words: str) -> str:
        result = CliRunner().invoke(cli, ["stats", str(made.file), *words, "--kafka", connection.address])
        assert result.exit_code == 0, result.output
        return result.stdout

    told = orjson.loads(stats("--json"))
    by_prompt = {one: [d for d in first if d["features"]["llm_prompt"] == one] for one in ("triage@1", "triage@2")}
    assert {name: row["decisions"] for name, row in told["prompts"].items()} == {
        name: len(its) for name, its in by_prompt.items()
    }
    one, two = told["prompts"]["triage@1"], told["prompts"]["triage@2"]
    assert (one["review"]["value"], two["review"]["value"]) == (len(reviewed) / len(by_prompt["triage@1"]), 0)
    changed = sum(said["decision"] == "escalate" for said in said_by_people)
    assert one["overrides"]["value"] == changed / len(reviewed)
    wrong = {name: sum(d["key"] in ("m0", "m1", "m3") for d in its) for name, its in by_prompt.items()}
    assert {name: round(row["errors"]["value"] * row["errors"]["of"]) for name, row in told["prompts"].items()} == wrong
    assert [row["decisions"] for row in told["models"].values()] == [count], "the model is one, whatever its prompt"
    shown = stats("--by", "prompt")
    assert "triage@1" in shown and "overridden" in shown and "unsure" not in shown
    assert "@stub-1" in stats("--by", "model")
